"""Rasterisers of the embedded world: outlines of things, their surface patterns, stuff textures.

Outlines are polygons in the unit circle (y points down) that OpenCV fills at four times the
resolution, which gives anti-aliased edges from integer arithmetic. Patterns are functions of
the coordinates of the object, so that they scale with it; textures are functions of pixels.
"""

import functools
from collections.abc import Callable

import cv2
import numpy as np

SUPERSAMPLING = 4

PATTERNS = (
    "plain",
    "striped",
    "dotted",
    "checkered",
    "ringed",
    "spoked",
    "speckled",
    "netted",
)
# Eight outlines that differ also where only a part is seen: a hexagon or a flower is nearly a disk.
SHAPES = (
    "disk",
    "square",
    "triangle",
    "star",
    "ring",
    "moon",
    "cross",
    "heart",
)
STUFFS = ("grass", "sand", "water", "bricks", "wood", "gravel")

STUFF_COLOURS = {
    "grass": (72, 142, 50),
    "sand": (218, 192, 134),
    "water": (48, 112, 176),
    "bricks": (168, 76, 60),
    "wood": (136, 94, 56),
    "gravel": (128, 128, 130),
}


def _polar(radii: np.ndarray, start: float = -90.0) -> np.ndarray:
    """Closed outline from radii at equal steps of the angle, beginning upwards."""
    angles = np.radians(start) + np.arange(len(radii)) * (2 * np.pi / len(radii))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _moon() -> np.ndarray:
    shift, bite = 0.55, 0.8
    corner = (1 - bite**2 + shift**2) / (2 * shift)
    outer = np.arccos(corner)
    inner = np.arctan2(np.sqrt(1 - corner**2), corner - shift)
    a = np.linspace(outer, 2 * np.pi - outer, 48)
    b = np.linspace(2 * np.pi - inner, inner, 48)
    back = np.stack([np.cos(a), np.sin(a)], axis=1)
    front = np.stack([shift + bite * np.cos(b), bite * np.sin(b)], axis=1)
    return np.concatenate([back, front]) * 1.08 + (0.2, 0.0)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], axis=1) / 16.0


@functools.cache
def outlines() -> dict[str, tuple[np.ndarray, ...]]:
    """Returns shape name -> contours (float64 [n, 2], x and y); two contours make a hole."""
    arm = 0.35
    cross = [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
    cross += [(-x, -y) for x, y in cross]
    return {
        "disk": (_polar(np.full(96, 0.95)),),
        "square": (_polar(np.full(4, 0.83 * np.sqrt(2)), start=-45.0),),
        "triangle": (_polar(np.full(3, 1.22)) + np.array([0, 0.2]),),
        "star": (_polar(np.tile([1.15, 0.5], 5)) + np.array([0, 0.05]),),
        "ring": (_polar(np.full(96, 1.0)), _polar(np.full(96, 0.44))),
        "moon": (_moon(),),
        "cross": (np.array(cross),),
        "heart": (_heart(),),
    }


def rasterise_shape(
    shape: str, matrix: np.ndarray, centre: tuple[float, float], size: int, rim: float = 0.0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Draws one outline into a square patch.

    Args:
      shape: one of SHAPES.
      matrix: [2, 2], maps the unit outline to pixels.
      centre: (x, y) in pixels; pixel (0, 0) is centred on (0, 0).
      size: side of the patch.
      rim: width of the contour line in pixels, 0 for none.

    Returns:
      Coverage float32 [size, size] in [0, 1], and that of the contour line (None without rim).
    """
    side = size * SUPERSAMPLING
    origin = np.asarray(centre) + 0.5
    contours = [
        np.rint((outline @ matrix.T + origin) * SUPERSAMPLING - 0.5).astype(np.int32)
        for outline in outlines()[shape]
    ]
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, contours, 255)
    alpha = _reduce(mask, size)
    if not rim:
        return alpha, None
    line = np.zeros_like(mask)
    cv2.polylines(line, contours, True, 255, max(1, round(2 * rim * SUPERSAMPLING)))
    return alpha, _reduce(line & mask, size)


def _reduce(mask: np.ndarray, size: int) -> np.ndarray:
    small = cv2.resize(mask, (size, size), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) * np.float32(1 / 255)


def _wave(t: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 in [-1/4, 1/4], zero at the two edges of each stripe."""
    return np.abs(t - np.floor(t) - 0.5) - 0.25


def _soft(distance: np.ndarray, radius: float) -> np.ndarray:
    """Signed distance in units of the object -> coverage, one pixel wide at the edge."""
    return np.clip(distance * radius + 0.5, 0.0, 1.0)


def _plain(u, v, radius, angle, rng):
    return None


def _striped(u, v, radius, angle, rng):
    period = 0.48
    t = (u * np.float32(np.cos(angle)) + v * np.float32(np.sin(angle))) * np.float32(1 / period)
    return _soft(_wave(t) * period, radius)


def _dotted(u, v, radius, angle, rng):
    width, height = 0.58, 0.50
    row = np.rint(v / height)
    x = u / width + 0.5 * row
    x = (x - np.rint(x)) * width
    y = v - row * height
    return _soft(0.19 - np.sqrt(x * x + y * y), radius)


def _checkered(u, v, radius, angle, rng):
    period = 0.84
    a = np.clip(_wave(u / period + 0.25) * (period * radius), -0.5, 0.5)
    b = np.clip(_wave(v / period + 0.25) * (period * radius), -0.5, 0.5)
    return 0.5 + 2 * a * b


def _ringed(u, v, radius, angle, rng):
    period = 0.44
    return _soft(_wave(np.sqrt(u * u + v * v) * np.float32(1 / period)) * period, radius)


def _spoked(u, v, radius, angle, rng):
    count = 7
    turn = np.arctan2(v, u) * np.float32(count / (2 * np.pi)) + np.float32(angle)
    arc = np.sqrt(u * u + v * v) * np.float32(2 * np.pi / count)
    return _soft(_wave(turn) * arc, radius)


def _speckled(u, v, radius, angle, rng):
    cell = 0.125
    side = 32
    table = np.frombuffer(rng.bytes(side * side), np.uint8) < 90
    row = np.floor(v * (1 / cell)).astype(np.int32) & (side - 1)
    column = np.floor(u * (1 / cell)).astype(np.int32) & (side - 1)
    return table[row * side + column].astype(np.float32)


def _netted(u, v, radius, angle, rng):
    period, half_line = 0.56, 0.075
    diagonals = (u + v) * np.float32(0.7071), (u - v) * np.float32(0.7071)
    first, second = (
        np.abs(t / period - np.rint(t / period)) * np.float32(period) for t in diagonals
    )
    return _soft(half_line - np.minimum(first, second), radius)


Pattern = Callable[..., np.ndarray | None]
_PATTERN_FUNCTIONS: dict[str, Pattern] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
    "ringed": _ringed,
    "spoked": _spoked,
    "speckled": _speckled,
    "netted": _netted,
}


def rasterise_pattern(
    pattern: str,
    u: np.ndarray,
    v: np.ndarray,
    radius: float,
    angle: float,
    rng: np.random.Generator,
) -> np.ndarray | None:
    """Share of the second tone at each pixel.

    Args:
      pattern: one of PATTERNS.
      u: float32 [h, w], coordinate along the object's own first axis, 1 at its radius.
      v: float32 [h, w], along the second.
      radius: in pixels; sets how soft the edges are.
      angle: direction of stripes or phase of spokes, in radians.
      rng: used by irregular patterns only.

    Returns:
      float32 [h, w] in [0, 1], or None for the pattern that has one tone.
    """
    return _PATTERN_FUNCTIONS[pattern](u, v, radius, angle, rng)


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Uniform noise, float32 in [-1, 1]; bytes are five times cheaper than normal deviates."""
    raw = np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8).reshape(shape)
    return raw.astype(np.float32) * np.float32(1 / 127.5) - np.float32(1)


def _grass(size, rng, x, y):
    blades = cv2.blur(noise(rng, size, size), (1, 9), borderType=cv2.BORDER_REFLECT_101)
    lean = float(rng.random()) * 0.8 - 0.4
    shear = np.array([[1, lean, -lean * size / 2], [0, 1, 0]])
    blades = cv2.warpAffine(blades, shear, (size, size), borderMode=cv2.BORDER_REFLECT_101)
    return 2.6 * blades, (52, 58, 34)


def _sand(size, rng, x, y):
    phase, slope = rng.random(2).tolist()
    ripple = np.sin((y + (slope - 0.5) * x) * np.float32(0.36) + np.float32(6.3 * phase))
    return 0.75 * noise(rng, size, size) + 0.45 * ripple, (24, 23, 22)


def _water(size, rng, x, y):
    first, second, third = (rng.random(3) * 6.3).tolist()
    bend = 2.6 * np.sin(x * 0.21 + first) + 1.4 * np.sin(x * 0.09 + y * 0.05 + second)
    waves = np.sin((y + bend) * np.float32(0.68) + np.float32(third))
    return waves * np.abs(waves), (34, 44, 46)


def _bricks(size, rng, x, y):
    length, height, mortar = 15, 8, 2
    shift_x, shift_y = rng.integers(0, 32, 2).tolist()
    columns, rows = np.arange(size) + shift_x, np.arange(size) + shift_y
    course = rows // height
    along = columns[None, :] + (course % 2)[:, None] * (length // 2)
    tone = noise(rng, 64 * 64)[((course % 64) * 64)[:, None] + (along // length) % 64] * 0.35
    gap = (along % length < mortar) | (rows % height < mortar)[:, None]
    return np.where(gap, 1.6, tone - 0.2) + 0.18 * noise(rng, size, size), (46, 62, 62)


def _wood(size, rng, x, y):
    plank = 17
    shift, phase = rng.random(2).tolist()
    board = np.floor((x + shift * plank) / plank)
    grain = np.sin(x * 1.15 + 2.2 * np.sin(y * 0.055 + board * 2.1 + 6.3 * phase))
    streaks = cv2.blur(noise(rng, size, size), (1, 15), borderType=cv2.BORDER_REFLECT_101)
    seam = (x + shift * plank) % plank < 1.5
    field = 0.45 * grain + 1.6 * streaks + 0.25 * np.sin(board * 2.6)
    return np.where(seam, np.float32(-1.7), field), (34, 30, 24)


def _gravel(size, rng, x, y):
    stones = cv2.GaussianBlur(noise(rng, size, size), (0, 0), 1.7)
    return np.clip(stones * 13, -1.5, 0.7) + 0.15 * noise(rng, size, size), (46, 46, 45)


_STUFF_FUNCTIONS = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "bricks": _bricks,
    "wood": _wood,
    "gravel": _gravel,
}


@functools.cache
def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.arange(size, dtype=np.float32)
    return np.ascontiguousarray(np.tile(line, (size, 1))), line[:, None]


def rasterise_stuff(stuff: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Texture of one stuff with a colour near its typical one.

    Args:
      stuff: one of STUFFS.
      size: side of the canvas; textures have a fixed scale in pixels.
      rng: draws colour, phase and grain.

    Returns:
      float32 [size, size, 3] in 0..255, not clipped.
    """
    colour = np.asarray(STUFF_COLOURS[stuff], np.float32) + noise(rng, 3) * 10
    field, swing = _STUFF_FUNCTIONS[stuff](size, rng, *_axes(size))
    field = field.astype(np.float32, copy=False)
    return field[..., None] * np.asarray(swing, np.float32) + colour
