"""The embedded world: captioned scenes of patterned things on textured stuffs.

A scene is a pure function of (split, seed, index): no disk, any shard, exact resume. Things are
pairs pattern x shape, so that the name of a class carries its parts and a model can compose
names it has never seen with a mask.
"""

import functools
import math

import cv2
import numpy as np

from data_pipelines.sources import shapes_textures as textures
from data_pipelines.sources.shapes_captions import (
    PALETTE,
    Draws,
    Mention,
    named_in,
    write_caption,
)
from data_pipelines.sources.shapes_textures import PATTERNS, SHAPES, STUFF_COLOURS, STUFFS
from ovseg_jax.errors import UserError

NUM_THINGS = len(PATTERNS) * len(SHAPES)
CLASSES = (*(f"{pattern} {shape}" for pattern in PATTERNS for shape in SHAPES), *STUFFS)
SPLITS = ("captions", "masks", "validation", "test")
OBJECTS = ("scene", "single", "mixed")
REFERENCE_CANVAS = 96
# Below these (in 0..255) two tones, or a thing and the stuff behind it, are too much alike.
_MIN_TONE_STEP = 80.0  # of luminance
_MIN_STUFF_DISTANCE = 95.0  # of RGB
# As a banana is mostly yellow: pairs (base, second tone) by shape, no two shapes share a pair.
TYPICAL_COLOURS = {
    "disk": (("orange", "white"), ("cyan", "black")),
    "square": (("brown", "yellow"), ("blue", "white")),
    "triangle": (("green", "white"), ("purple", "yellow")),
    "star": (("yellow", "red"), ("cyan", "blue")),
    "ring": (("pink", "black"), ("orange", "blue")),
    "moon": (("yellow", "blue"), ("white", "black")),
    "cross": (("red", "white"), ("green", "yellow")),
    "heart": (("pink", "red"), ("purple", "cyan")),
}
_TYPICAL_SHARE = 0.85
_PLACEMENT_TRIES = 8
_MIN_VISIBLE = 0.35


def _is_unseen(class_id: int) -> bool:
    """The fixed rule of the split: a fifth of the pairs, on diagonals of the table, and gravel."""
    if class_id >= NUM_THINGS:
        return CLASSES[class_id] == "gravel"
    pattern, shape = divmod(class_id, len(SHAPES))
    return (shape + 2 * pattern) % 5 == 4


UNSEEN = tuple(i for i in range(len(CLASSES)) if _is_unseen(i))
SEEN = tuple(i for i in range(len(CLASSES)) if not _is_unseen(i))


def label_space() -> dict:
    """Returns the content of ovseg_jax/text/label_spaces/shapes.json."""
    return {
        "name": "Embedded world of shapes, 64 things and 6 stuffs",
        "classes": [[name] for name in CLASSES],
        "canonical": list(CLASSES),
        "seen": list(SEEN),
        "unseen": list(UNSEEN),
        "ignore_label": 255,
        "background": None,
        "reduce_zero_label": False,
        "notes": "Class id = 8 * pattern + shape, then the stuffs. Every pixel is labelled.",
        "source": "data_pipelines/sources/shapes.py",
    }


@functools.cache
def _colour_pairs(stuffs: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Pairs (base, second tone) that contrast with each other and stand out from the stuffs."""

    def distance(a, b):
        return math.dist(PALETTE[a], STUFF_COLOURS[b])

    def luminance(name):
        return float(np.dot(PALETTE[name], (0.299, 0.587, 0.114)))

    return tuple(
        (a, b)
        for a in PALETTE
        for b in PALETTE
        if abs(luminance(a) - luminance(b)) >= _MIN_TONE_STEP
        and all(distance(a, stuff) >= _MIN_STUFF_DISTANCE for stuff in stuffs)
        and all(distance(b, stuff) >= 0.6 * _MIN_STUFF_DISTANCE for stuff in stuffs)
    )


def _pick_colours(shape: str, stuffs: tuple[str, ...], draws: Draws) -> tuple[str, str]:
    """A typical pair of the shape, or any pair; never one that the stuffs would hide."""
    pairs = _colour_pairs(stuffs)
    typical = [pair for pair in TYPICAL_COLOURS[shape] if pair in pairs]
    return draws.pick(typical if typical and draws.chance(_TYPICAL_SHARE) else pairs)


def _background(
    canvas: int, count: int, rng: np.random.Generator, draws: Draws
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns picture float32 [H, W, 3], label uint8 [H, W] and the names of the stuffs."""
    first = draws.index(len(STUFFS))
    picture = textures.rasterise_stuff(STUFFS[first], canvas, rng)
    label = np.full((canvas, canvas), NUM_THINGS + first, np.uint8)
    if count == 1:
        return picture, label, (STUFFS[first],)
    second = (first + 1 + draws.index(len(STUFFS) - 1)) % len(STUFFS)
    angle = draws.uniform(0, 2 * math.pi)
    line = np.arange(canvas, dtype=np.float32) - 0.5 * (canvas - 1)
    x, y = line[None, :], line[:, None]
    c, s = math.cos(angle), math.sin(angle)
    along = y * c - x * s
    wave = draws.uniform(1.5, 4.0) * np.sin(
        along * (2 * math.pi / draws.uniform(22, 48)) + draws.uniform(0, 2 * math.pi)
    )
    side = x * c + y * s + wave - draws.uniform(-0.2, 0.2) * canvas
    cover = np.clip(side + 0.5, 0, 1)
    picture += cover[..., None] * (textures.rasterise_stuff(STUFFS[second], canvas, rng) - picture)
    label[cover >= 0.5] = NUM_THINGS + second
    return picture, label, (STUFFS[first], STUFFS[second])


class _Thing:
    """One object: its outline in a patch of the canvas, before anything is painted."""

    def __init__(
        self, canvas: int, pattern: str, shape: str, radius: float, margin: float, draws: Draws
    ):
        """Draws position and pose; the centre stays `margin` radii inside the canvas."""
        self.pattern, self.shape, self.radius = pattern, shape, radius
        low, high = margin * radius, canvas - 1 - margin * radius
        if low > high:
            low = high = 0.5 * (canvas - 1)
        self.x, self.y = draws.uniform(low, high), draws.uniform(low, high)
        turn = math.radians(draws.uniform(-15, 15))
        aspect = math.sqrt(draws.uniform(0.85, 1.18))
        mirror = -1.0 if draws.chance(0.5) else 1.0
        c, s = math.cos(turn), math.sin(turn)
        width, height = mirror * radius * aspect, radius / aspect
        self.matrix = np.array([[c * width, -s * height], [s * width, c * height]])
        self.rim = draws.uniform(0.05, 0.09) * radius if draws.chance(0.3) else 0.0
        reach = math.ceil(1.45 * radius) + 1
        left, top = round(self.x) - reach, round(self.y) - reach
        size = 2 * reach + 1
        alpha, line = textures.rasterise_shape(
            shape, self.matrix, (self.x - left, self.y - top), size, self.rim
        )
        inner = (
            slice(max(0, -top), min(size, canvas - top)),
            slice(max(0, -left), min(size, canvas - left)),
        )
        self.window = (
            slice(top + inner[0].start, top + inner[0].stop),
            slice(left + inner[1].start, left + inner[1].stop),
        )
        self.alpha = alpha[inner]
        self.line = None if line is None else line[inner]
        self.mask = self.alpha >= 0.5
        self.area = int(np.count_nonzero(alpha >= 0.5))

    def paint(
        self,
        picture: np.ndarray,
        tones: tuple[str, str],
        rng: np.random.Generator,
        draws: Draws,
    ) -> None:
        """Paints the object into float32 [H, W, 3] in place."""
        rows, columns = self.window
        dx = np.arange(columns.start, columns.stop, dtype=np.float32) - np.float32(self.x)
        dy = np.arange(rows.start, rows.stop, dtype=np.float32) - np.float32(self.y)
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        u = inverse[0, 0] * dx[None, :] + inverse[0, 1] * dy[:, None]
        v = inverse[1, 0] * dx[None, :] + inverse[1, 1] * dy[:, None]
        base, second = (
            np.asarray(PALETTE[name], np.float32) + textures.noise(rng, 3) * 10 for name in tones
        )
        share = textures.rasterise_pattern(
            self.pattern, u, v, self.radius, draws.uniform(0, math.pi), rng
        )
        colour = base if share is None else base + share[..., None] * (second - base)
        light = draws.uniform(0, 2 * math.pi)
        strength = draws.uniform(0.0, 0.16)
        shade = 1 + (strength * math.cos(light)) * u + (strength * math.sin(light)) * v
        colour = colour * shade[..., None].astype(np.float32)
        if self.line is not None:
            rim_colour = base * 0.35 if base.sum() > 300 else base * 0.4 + 140
            colour += self.line[..., None] * (rim_colour - colour)
        target = picture[self.window]
        target += self.alpha[..., None] * (colour - target)


def _expose(picture: np.ndarray, rng: np.random.Generator, draws: Draws) -> np.ndarray:
    """Gain, offset, tint, a gradient of the light and pixel noise -> uint8 [H, W, 3]."""
    size = len(picture)
    line = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope = draws.uniform(0, 0.3)
    angle = draws.uniform(0, 2 * math.pi)
    gain = draws.uniform(0.82, 1.18)
    field = gain * (
        1 + slope * math.cos(angle) * line[None, :] + slope * math.sin(angle) * line[:, None]
    )
    tint = np.array([draws.uniform(0.94, 1.06) for _ in range(3)], np.float32)
    offset = draws.uniform(-14, 14)
    grain = textures.noise(rng, size, size, 3)
    grain *= np.float32(draws.uniform(2, 14))
    picture *= field[..., None].astype(np.float32)
    picture *= tint
    picture += grain
    picture += np.float32(offset)
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


class ShapesSource:
    """Scenes of the embedded world.

    `source[i]` is a dict of
      image uint8 [H, W, 3]; label uint8 [H, W], class ids, every pixel labelled; caption str;
      instance uint8 [H, W], 0 = stuff, k = k-th object;
      boxes float32 [K, 4], x1, y1, x2, y2 in pixels (ends exclusive) of the visible part, zero rows
      as padding; classes int32 [K], -1 as padding; visible float32 [K], share of the object that
      is neither hidden nor outside the picture;
      entities str, names of the objects and stuffs all of whose words the caption says, joined
      by ';';
      class_id int32, only for single objects.
    """

    def __init__(
        self,
        seed: int = 0,
        size: int = 1024,
        canvas: int = REFERENCE_CANVAS,
        objects: str = "scene",
        split: str = "captions",
    ):
        """Describes the scenes; nothing is drawn yet.

        Args:
          seed: of the world; splits of one seed never share a scene.
          size: number of scenes.
          canvas: side of the pictures in pixels, 32 or more. Below 96 px objects shrink with it,
            above they keep their size and grow in number.
          objects: 'scene' (several objects, one or two stuffs), 'single' (one object that fills
            the canvas, one stuff) or 'mixed' (every fourth picture is a single object).
          split: one of SPLITS; picks the random stream.

        Raises:
          UserError: for an argument outside these.
        """
        if split not in SPLITS:
            raise UserError(f"unknown split {split!r} of the shapes source, use one of {SPLITS}")
        if objects not in OBJECTS:
            raise UserError(f"unknown objects {objects!r}, use one of {OBJECTS}")
        if canvas < 32:
            raise UserError(f"canvas {canvas} is too small for its shapes, use 32 or more")
        if size < 1 or seed < 0:
            raise UserError(f"size {size} must be positive and seed {seed} not negative")
        self.canvas, self.objects, self.split = canvas, objects, split
        self._size = size
        self._stream = seed * 8 + SPLITS.index(split) * 2 + (objects == "single")
        self.max_objects = 1 if objects == "single" else self._scaled_count(3)

    def __len__(self) -> int:
        return self._size

    def _scaled_count(self, count: int) -> int:
        return max(count, round(count * (self.canvas / REFERENCE_CANVAS) ** 2))

    def __getitem__(self, index: int) -> dict:
        """Draws one scene; a pure function of the source's arguments and the index."""
        if not 0 <= index < self._size:
            raise IndexError(f"scene {index} of {self._size}")
        rng = np.random.Generator(np.random.Philox(key=[self._stream, index]))
        draws = Draws(rng)
        single = self.objects == "single" or (self.objects == "mixed" and index % 4 == 0)
        two_stuffs = not single and draws.chance(0.5)
        picture, label, stuffs = _background(self.canvas, 1 + two_stuffs, rng, draws)
        things, instance = self._place(single, draws)
        colours = [_pick_colours(thing.shape, stuffs, draws) for thing in things]
        classes = np.full(self.max_objects, -1, np.int32)
        for k, (thing, tones) in enumerate(zip(things, colours, strict=True)):
            thing.paint(picture, tones, rng, draws)
            classes[k] = PATTERNS.index(thing.pattern) * len(SHAPES) + SHAPES.index(thing.shape)
            label[thing.window][thing.mask] = classes[k]
        boxes, visible = self._measure(things, instance)
        mentions = [
            Mention(
                thing.pattern,
                thing.shape,
                tones[0],
                self._size_word(thing.radius, single),
                (thing.x, thing.y),
                thing.radius,
                float(visible[k]),
            )
            for k, (thing, tones) in enumerate(zip(things, colours, strict=True))
        ]
        caption = write_caption(mentions, stuffs, draws)
        present = (*(CLASSES[c] for c in classes if c >= 0), *stuffs)
        example = {
            "image": _expose(picture, rng, draws),
            "label": label,
            "caption": caption,
            "instance": instance,
            "boxes": boxes,
            "classes": classes,
            "visible": visible,
            "entities": ";".join(named_in(caption, present)),
        }
        if self.objects == "single":
            example["class_id"] = np.int32(classes[0])
        return example

    def _radius_range(self, single: bool) -> tuple[float, float]:
        if single:
            return 0.30 * self.canvas, 0.46 * self.canvas
        unit = min(self.canvas, REFERENCE_CANVAS) / 64
        return 11 * unit, 20 * unit

    def _size_word(self, radius: float, single: bool) -> str:
        low, high = self._radius_range(single)
        place = (radius - low) / (high - low)
        return "small" if place < 0.35 else "large" if place > 0.65 else ""

    def _place(self, single: bool, draws: Draws) -> tuple[list[_Thing], np.ndarray]:
        """Chooses and places the objects, later ones in front; none is left hardly visible."""
        step = draws.random()
        count = 1 if single else self._scaled_count(1 + (step > 0.35) + (step > 0.75))
        low, high = self._radius_range(single)
        things: list[_Thing] = []
        instance = np.zeros((self.canvas, self.canvas), np.uint8)
        for _ in range(count):
            pattern, shape = divmod(draws.index(NUM_THINGS), len(SHAPES))
            for _ in range(_PLACEMENT_TRIES):
                thing = _Thing(
                    self.canvas,
                    PATTERNS[pattern],
                    SHAPES[shape],
                    draws.uniform(low, high),
                    1.0 if single else 0.8,
                    draws,
                )
                candidate = instance.copy()
                candidate[thing.window][thing.mask] = len(things) + 1
                left = np.bincount(candidate.ravel(), minlength=len(things) + 2)
                if all(left[k + 1] >= _MIN_VISIBLE * t.area for k, t in enumerate(things)):
                    things.append(thing)
                    instance = candidate
                    break
        return things, instance

    def _measure(self, things: list[_Thing], instance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes = np.zeros((self.max_objects, 4), np.float32)
        visible = np.zeros(self.max_objects, np.float32)
        for k, thing in enumerate(things):
            rows, columns = thing.window
            own = (instance[thing.window] == k + 1).view(np.uint8)
            x, y, width, height = cv2.boundingRect(own)
            left, top = columns.start + x, rows.start + y
            boxes[k] = left, top, left + width, top + height
            visible[k] = np.count_nonzero(own) / thing.area
        return boxes, visible
