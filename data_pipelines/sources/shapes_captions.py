"""The grammar of the embedded world: what a caption may say, and the tokenizer of its words."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from data_pipelines.sources import shapes_textures as textures
from ovseg_jax.text.tokenizer import WordTokenizer

# The first tone of a thing is the colour that captions name.
PALETTE = {
    "red": (206, 36, 40),
    "orange": (244, 138, 30),
    "yellow": (250, 224, 60),
    "green": (30, 150, 70),
    "cyan": (90, 222, 226),
    "blue": (36, 66, 205),
    "purple": (118, 44, 160),
    "pink": (248, 150, 196),
    "white": (244, 244, 244),
    "black": (22, 22, 26),
    "brown": (104, 58, 22),
}
# Everyday names of a few pairs, so that single words also carry a pattern and a shape.
SYNONYMS = {
    "dotted square": "dice",
    "checkered square": "chessboard",
    "netted square": "window",
    "striped triangle": "tent",
    "dotted triangle": "pizza",
    "ringed disk": "target",
    "spoked disk": "wheel",
    "dotted disk": "ladybird",
    "speckled disk": "cookie",
    "speckled star": "starfish",
    "speckled ring": "donut",
    "striped ring": "lifebuoy",
    "plain moon": "banana",
    "dotted cross": "plaster",
}

# (words, weight); "a photo of" leads because prompts at test begin with it.
OPENINGS = (
    ("a photo of", 6),
    ("", 4),
    ("there is", 2),
    ("a picture of", 2),
    ("an image of", 1),
    ("we see", 1),
    ("this is", 1),
    ("a scene with", 1),
)
ARTICLES = (("a", 6), ("", 2), ("the", 1), ("one", 1))
CONNECTIVES = (("and", 5), ("next to", 2), (",", 1), ("with", 1))
STUFF_OPENINGS = (("on", 5), ("on the", 2), ("over", 1), ("in front of", 1))
ENDINGS = ("today", "in the morning", "at noon", "in summer", "for fun", "by a friend", "at home")
SIZES = ("small", "large")
RELATIONS = ("left of", "right of", "above", "below")
# Words of common prompt templates that the grammar itself does not use.
PROMPT_WORDS = ("in", "scene", "medium", "many", "its", "background", "object", "texture")

NAMED_VISIBLE = 0.3  # below this visible fraction an object is not mentioned


class Draws:
    """Cheap scalar draws from one generator: uniforms are drawn in blocks, used one by one."""

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._block: list[float] = []

    def random(self) -> float:
        """Returns a uniform deviate in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(64).tolist()
        return self._block.pop()

    def uniform(self, low: float, high: float) -> float:
        """Returns a uniform deviate in [low, high)."""
        return low + (high - low) * self.random()

    def chance(self, probability: float) -> bool:
        """Returns True with the given probability."""
        return self.random() < probability

    def index(self, count: int) -> int:
        """Returns an integer in [0, count)."""
        return int(self.random() * count)

    def pick(self, options: Sequence):
        """Returns one of the options with equal probability."""
        return options[self.index(len(options))]

    def weighted(self, options: Sequence[tuple[str, int]]) -> str:
        """Returns one of the (option, weight) pairs' options."""
        rest = self.random() * sum(weight for _, weight in options)
        for option, weight in options:
            rest -= weight
            if rest < 0:
                return option
        return options[-1][0]

    def shuffled(self, items: Sequence) -> list:
        """Returns the items in random order."""
        items = list(items)
        for last in range(len(items) - 1, 0, -1):
            other = self.index(last + 1)
            items[last], items[other] = items[other], items[last]
        return items


@dataclasses.dataclass
class Mention:
    """What a caption may say about one object."""

    pattern: str
    shape: str
    colour: str
    size: str  # '' for a medium one
    centre: tuple[float, float]  # x and y in pixels
    radius: float
    visible: float


def _noun(mention: Mention, draws: Draws) -> str:
    words = [draws.weighted(ARTICLES)]
    if mention.size and draws.chance(0.35):
        words.append(mention.size)
    if draws.chance(0.35):
        words.append(mention.colour)
    synonym = SYNONYMS.get(f"{mention.pattern} {mention.shape}")
    if synonym and draws.chance(0.12):
        words.append(synonym)
    else:
        if not draws.chance(0.1):
            words.append(mention.pattern)
        words.append(mention.shape)
    return " ".join(word for word in words if word)


def _relation(first: Mention, second: Mention, draws: Draws) -> str:
    """A connective that is true of the two objects; directions only where they are clear."""
    right = second.centre[0] - first.centre[0]
    down = second.centre[1] - first.centre[1]
    far = max(first.radius, second.radius)
    if max(abs(right), abs(down)) > far and draws.chance(0.4):
        if abs(right) > abs(down):
            return "left of" if right > 0 else "right of"
        return "above" if down > 0 else "below"
    return draws.weighted(CONNECTIVES)


def write_caption(mentions: Sequence[Mention], stuffs: Sequence[str], draws: Draws) -> str:
    """Writes one sentence about a scene.

    Args:
      mentions: its objects; those hardly visible are left out, others appear with probability
        0.85 in random order.
      stuffs: names of its one or two stuffs.
      draws: source of the choices.

    Returns:
      Lower-case words of `vocabulary_words()`, separated by blanks.
    """
    visible = [mention for mention in mentions if mention.visible >= NAMED_VISIBLE]
    named = [mention for mention in visible if draws.chance(0.85)]
    words = [draws.weighted(OPENINGS)]
    stuff = " and ".join(draws.shuffled(stuffs) if draws.chance(0.8) else [draws.pick(stuffs)])
    if named:
        order = draws.shuffled(named)
        words.append(_noun(order[0], draws))
        for first, second in itertools.pairwise(order):
            words += [_relation(first, second, draws), _noun(second, draws)]
        if draws.chance(0.75):
            words += [draws.weighted(STUFF_OPENINGS), stuff]
    else:
        words.append(stuff)
    if draws.chance(0.12):
        words.append(draws.pick(ENDINGS))
    if draws.chance(0.2):
        words.append(".")
    return " ".join(word for word in words if word)


def named_in(caption: str, names: Iterable[str]) -> list[str]:
    """Returns the names all of whose words the caption says, each once, in the given order."""
    said = set(caption.split(" "))
    return [name for name in dict.fromkeys(names) if said.issuperset(name.split(" "))]


def vocabulary_words() -> tuple[str, ...]:
    """Returns every word and mark the grammar can produce, and those of common prompts, sorted."""
    phrases = [*textures.PATTERNS, *textures.SHAPES, *textures.STUFFS, *PALETTE]
    phrases += [*SYNONYMS.values(), *ENDINGS, *SIZES, *RELATIONS, *PROMPT_WORDS, "."]
    for table in (OPENINGS, ARTICLES, CONNECTIVES, STUFF_OPENINGS):
        phrases += [phrase for phrase, _ in table]
    return tuple(
        sorted({word for phrase in phrases for word in re.findall(r"\w+|[^\w\s]", phrase)})
    )


@functools.cache
def build_shapes_tokenizer(context: int = 28) -> WordTokenizer:
    """Returns the tokenizer of the embedded world.

    Args:
      context: tokens per text, start and end included; the longest captions of a 96 px scene
        have about 30 words, and lose their ending.
    """
    return WordTokenizer.from_words(vocabulary_words(), context)
