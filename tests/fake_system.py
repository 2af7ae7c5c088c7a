"""A system small enough to work out by hand, for tests of the loops around systems."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ovseg_jax.inference import Model
from ovseg_jax.systems.system import System
from ovseg_jax.text.vocabulary import Vocabulary

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
NAMES = tuple(COLORS)
MEAN, STD = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)


class ColorSystem(System):
    """Scores a pixel by its nearness to the colour of a name; `context` looks at the window."""

    def __init__(self, context: float = 0.0, *, rngs: nnx.Rngs):
        del rngs
        self.colors = nnx.Param(jnp.asarray([(0, 0, 0), *COLORS.values()], jnp.float32))
        self.gain = nnx.Param(jnp.asarray(1.0))
        self.context = context

    def encode_vocabulary(self, tokens):
        return self.colors[...][tokens[:, 0, 0]]

    @property
    def patch_size(self):
        return 2

    def encode(self, image, sizes=None):
        return image

    def dense_features(self, image, shape):
        return image

    def decode(self, image, vocabulary, shape, sizes=None):
        pixels = image * jnp.asarray(STD) + jnp.asarray(MEAN)
        far = (pixels[..., None, :] - vocabulary.embeddings) ** 2
        scores = -self.gain[...] * far.sum(-1) / 255**2
        rows = jnp.arange(1.0, 1 + scores.shape[-1])
        return scores + self.context * image.mean((1, 2))[:, None, None, :1] * jnp.cos(rows)


class ColorTokenizer:
    """One id per name, read off the last word of a prompt."""

    context = 1
    vocab_size = len(COLORS) + 1

    def __call__(self, texts):
        return np.asarray([[1 + NAMES.index(text.split()[-1])] for text in texts], np.int32)

    def unknown_words(self, text):
        return tuple(word for word in text.split() if word not in COLORS)


def color_model(context: float = 0.0) -> Model:
    return Model.of(ColorSystem(context, rngs=nnx.Rngs(0)), MEAN, STD)


def color_vocabulary(names=NAMES, rows: int = 8) -> Vocabulary:
    # Padding rows hold colours too, so that a missing mask shows.
    embeddings = np.zeros((rows, 3), np.float32)
    embeddings[: len(names)] = [COLORS[name] for name in names]
    ids = np.full(rows, -1, np.int32)
    ids[: len(names)] = range(len(names))
    return Vocabulary(jnp.asarray(embeddings), jnp.asarray(ids), jnp.asarray(ids >= 0))


def scene(height: int, width: int, seed: int = 0):
    """A picture of coloured bars with noise, and its labels."""
    rng = np.random.default_rng(seed)
    label = np.empty((height, width), np.int32)
    label[:] = rng.integers(0, len(NAMES), (1, 1))
    for index in range(len(NAMES)):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        label[top : top + height // 3, left : left + width // 3] = index
    colors = np.asarray(list(COLORS.values()), np.float32)[label]
    image = np.clip(colors + rng.normal(0, 8, colors.shape), 0, 255).astype(np.uint8)
    return image, label
