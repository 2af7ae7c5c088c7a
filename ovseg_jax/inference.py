"""From pictures of any size to label maps at their own size, with static shapes.

A picture is resized on the host and laid on a canvas that is just large enough for its windows, so
that a few canvas shapes serve all sizes. Where the picture ends, where its windows start and how
large it was originally is data: windows are cut by dynamic slices, scores return to the original
size through interpolation matrices built on the device. Another picture size within a bucket, or
other names within the padded vocabulary, compiles nothing anew.

The protocol is mmsegmentation's (`slide` and `whole` modes): scores of overlapping windows are
averaged, resized bilinearly to the original size, and only then compared. One deviation: there a
picture smaller than the window goes through the network at its own size; here it is padded with
the mean colour to the window, because most networks have one input size. `Protocol.patch` has it
as the references do.

What training-free methods do to scores comes in their order: refinement at the original size,
softmax over all queries (synonyms are queries of their own, and the best one speaks for its class),
the rule about small areas, the threshold of the background.

What an evaluation may know beforehand is data too: which classes a picture can hold, regions that
are named as a whole, and what proposed masks cover.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from PIL import Image

from ovseg_jax.decisions import (
    Rules,
    decide,
    decide_in_chunks,
    large_classes,
    name_proposals,
    name_regions,
)
from ovseg_jax.devices import AXIS
from ovseg_jax.errors import UserError
from ovseg_jax.ops.images import normalize
from ovseg_jax.ops.masks import inside
from ovseg_jax.ops.mixture import Mixture
from ovseg_jax.ops.pamr import pamr
from ovseg_jax.ops.resize import apply_matrices, traced_matrices
from ovseg_jax.ops.sliding import WINDOW_BATCH, encode_windows, lay_windows, mean_scores
from ovseg_jax.ops.windows import num_windows
from ovseg_jax.params import Flat, merge_model, split_model
from ovseg_jax.pictures import shortest_edge_size
from ovseg_jax.text.vocabulary import Vocabulary

Pair = tuple[int, int]  # height, width

_SIZE_BUCKET = 128  # original sizes are padded to a multiple of this many pixels
_WHOLE_BUCKET = 32  # and so are pictures that go through the network whole
_SCORES_AT_ONCE = 2**26  # floats; more names than fit are compared in chunks


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "state", "mean", "std"),
    meta_fields=("graphdef",),
)
@dataclasses.dataclass(frozen=True)
class Model:
    """A system taken apart for jitted functions, with the pixel statistics it expects.

    Attributes:
      graphdef: what `params.split_model` returned; static.
      params: parameters by path.
      state: other variables by path.
      mean: float32 [3], subtracted from RGB pixels in 0..255.
      std: float32 [3].
    """

    graphdef: nnx.GraphDef
    params: Flat
    state: Flat
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, system: nnx.Module, mean, std) -> "Model":
        """Takes a system apart."""
        mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        return cls(*split_model(system), mean, std)

    def system(self) -> nnx.Module:
        """Puts the system together again; meant for inside `jit`."""
        return merge_model(self.graphdef, self.params, self.state)

    def images(self, pixels: jax.Array, sizes: jax.Array) -> jax.Array:
        """Canvases [B, h, w, 3] normalised, zero beyond the pictures of `sizes` int32 [B, 2]."""
        shown = inside(sizes, pixels.shape[1:3])[..., None]
        return jnp.where(shown, normalize(pixels, self.mean, self.std), 0.0)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a picture passes through a network.

    Attributes:
      short_side: pixels of the shorter side after resizing; 0 leaves the picture as it is.
      crop: height and width of the window; 0 takes the whole (resized) picture at once, padded
        with the mean colour to a multiple of 32, which holds a whole number of patches.
      stride: pixels between two windows.
      flip: whether the softmax is averaged with that of the mirrored picture.
      long_side: bound on the longer side after resizing, which then decides; 0 = none.
      antialias: whether pictures are resized as detectron2 does (PIL, which covers all pixels where
        it shrinks, and its rounding of sizes) and not as mmsegmentation (OpenCV).
      patch: side of the patches of a network that takes any number of them. Pictures that are
        smaller than the window (all of them, if `crop` is 0) then go through at their own size, as
        in the references, and one program serves the sizes that hold as many patches. 1 fits
        networks of all kinds, with a program for each size. 0 pads as told above.
      pad_patches: whether the last incomplete patches of whole pictures are filled up with the
        mean colour; otherwise they are cut off. In both cases scores are spread over the picture.
      pamr_steps: how often scores are refined by the picture, see `ops.pamr`; 0 = not at all.
      pamr_dilations: distances of the neighbours that take part, in pixels.
      area: classes that get at most this share of what is no background lose their pixels to the
        next best, where class 0 is the background; 0 = no such rule.
      threshold: pixels whose largest probability is less become class 0. Probabilities are a
        softmax over the names, unless the scores of a system are probabilities by themselves.
    """

    short_side: int = 0
    crop: int = 0
    stride: int = 0
    flip: bool = False
    long_side: int = 0
    antialias: bool = False
    patch: int = 0
    pad_patches: bool = False
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)
    area: float = 0.0
    threshold: float = 0.0

    def __post_init__(self):
        if self.crop and not 0 < self.stride <= self.crop:
            raise ValueError(f"stride {self.stride} leaves gaps between windows of {self.crop}")
        if self.pad_patches and (self.crop or not self.patch):
            raise UserError(
                "eval.pad_patches is for pictures that are taken whole; set eval.crop to 0 and "
                "eval.patch to that of the network."
            )
        if self.pamr_steps and not min(self.pamr_dilations, default=0) > 0:
            raise UserError(
                f"eval.pamr_dilations={self.pamr_dilations} are no distances; give pixels such as "
                "(8, 16), or set eval.pamr_steps to 0."
            )

    @classmethod
    def from_config(cls, config) -> "Protocol":
        """Reads the fields of the `eval` section of a config (or any mapping)."""
        present = (field.name for field in dataclasses.fields(cls) if field.name in config)
        fields = {name: config[name] for name in present}
        if "pamr_dilations" in fields:  # JSON has no tuples
            fields["pamr_dilations"] = tuple(fields["pamr_dilations"])
        return cls(**fields)

    def needs_softmax(self, scores_are_probabilities: bool = False) -> bool:
        """Whether decisions need a softmax; the largest score is also the most probable."""
        if scores_are_probabilities and self.threshold:
            return False
        return bool(self.flip or self.area or self.threshold)


class Canvas(NamedTuple):
    """A picture ready for the device.

    Attributes:
      pixels: uint8 or float32 [h, w, 3]: the resized picture, padded to a canvas shape.
      size: height and width of the resized picture.
      original_size: height and width that the label map shall have.
      label_shape: padded shape in which the label map is computed.
    """

    pixels: np.ndarray
    size: Pair
    original_size: Pair
    label_shape: Pair


def resized_size(size: Pair, short_side: int, long_side: int = 0) -> Pair:
    """Size after bringing the shorter side to `short_side` (mmcv's rounding); 0 keeps it.

    Where the longer side would exceed `long_side` (0 = no bound), it is brought to that.
    """
    if not short_side:
        return size
    factor = short_side / min(size)
    if long_side:
        factor = min(factor, long_side / max(size))
    return int(size[0] * factor + 0.5), int(size[1] * factor + 0.5)


def lay_on_canvas(image: np.ndarray, protocol: Protocol) -> Canvas:
    """Resizes a picture on the host and pads it to the canvas of its windows.

    Args:
      image: uint8, or float32 unless resized with antialiasing, [H, W, 3].
      protocol: how to resize and which windows will be cut.
    """
    original = image.shape[:2]
    image = _resize(image, protocol)
    size = image.shape[:2]
    shape = _canvas_shape(size, protocol)
    pixels = np.zeros((*shape, 3), image.dtype)
    pixels[: size[0], : size[1]] = image
    # Without resizing there is no way back either: labels are read off the canvas.
    label_shape = tuple(_round_up(n, _SIZE_BUCKET) for n in original)
    return Canvas(pixels, size, original, label_shape if protocol.short_side else shape)


def _resize(image: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Bilinear to the size of the protocol."""
    original = image.shape[:2]
    if protocol.antialias and protocol.short_side:
        size = shortest_edge_size(original, protocol.short_side, protocol.long_side or math.inf)
        picture = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(picture)
    size = resized_size(original, protocol.short_side, protocol.long_side)
    if size == original:
        return image
    import cv2

    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)


def _canvas_shape(size: Pair, protocol: Protocol) -> Pair:
    return tuple(_canvas_side(n, protocol) for n in size)


def _canvas_side(size: int, protocol: Protocol) -> int:
    crop, stride, patch = protocol.crop, protocol.stride, protocol.patch
    if patch and (not crop or size < crop):
        if protocol.pad_patches:
            return _round_up(size, patch)
        # The largest size with as many whole patches, so that sizes share canvases.
        largest = size // patch * patch + patch - 1
        return min(largest, crop - 1) if crop else largest
    if not crop:
        return _round_up(size, _WHOLE_BUCKET)
    return crop + (num_windows(size, crop, stride) - 1) * stride


def _window_shape(canvas: Pair, protocol: Protocol) -> Pair:
    """The window of a canvas: all of an axis that is no multiple of windows."""
    return tuple(protocol.crop if 0 < protocol.crop <= n else n for n in canvas)


def _round_up(number: int, multiple: int) -> int:
    return math.ceil(number / multiple) * multiple


def segment(
    model: Model,
    vocabulary: Vocabulary,
    pixels: jax.Array,
    sizes: jax.Array,
    original_sizes: jax.Array,
    *,
    protocol: Protocol,
    label_shape: Pair,
    with_scores: bool = False,
    candidates: np.ndarray | None = None,
    regions: jax.Array | None = None,
    truth: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Segments a batch of canvases; inference's one compiled program.

    Args:
      model: the system and its pixel statistics.
      vocabulary: the names; rows with class id -1 are padding and never predicted.
      pixels: uint8 or normalised float32 [B, h, w, 3].
      sizes: int32 [B, 2], the resized picture on each canvas.
      original_sizes: int32 [B, 2].
      protocol: windows, flips, and how scores become classes.
      label_shape: `Canvas.label_shape`.
      with_scores: whether the scores are returned too, which takes N floats per pixel; not with
        `regions`.
      candidates: bool [B, C], C above every class id: classes that compete in each picture, one
        with a name among them; None = all.
      regions: int32 [B, *label_shape]: pixels of one value in [0, N) get one class, by the mean
        of their scores. Other values are no region and get -1. `Protocol.area` does not apply.
      truth: int32 [B, *label_shape], classes by which proposed masks are named; values outside
        [0, N) are none.
      mesh: of `devices.local_mesh`, whose devices share the pictures: B is a multiple of their
        number, and the model is on each; None = one device.

    Returns:
      Class ids int32 [B, *label_shape], meaningless beyond the original sizes, and the scores
      float32 [B, *label_shape, N]: probabilities if `Protocol.needs_softmax`, which are 0 where a
      rule took the class away; otherwise -inf for rows that do not compete.

    Raises:
      UserError: `truth` for a system that proposes no masks, or that sees pictures in windows.
    """
    threshold = np.float32(protocol.threshold) if protocol.threshold else None
    return compiled_segment(
        model,
        vocabulary,
        pixels,
        sizes,
        original_sizes,
        threshold,
        candidates,
        regions,
        truth,
        # That there is one belongs to the program, its value does not.
        protocol=dataclasses.replace(protocol, threshold=float(threshold is not None)),
        label_shape=label_shape,
        with_scores=with_scores,
        mesh=mesh if mesh and mesh.size > 1 else None,
    )


@functools.partial(jax.jit, static_argnames=("protocol", "label_shape", "with_scores", "mesh"))
def compiled_segment(
    *arrays: Any, protocol: Protocol, label_shape: Pair, with_scores: bool, mesh: Mesh | None
) -> tuple[jax.Array, jax.Array | None]:
    """`segment` on one device or, with a mesh, a part of the batch on each."""
    run = functools.partial(
        _segment, protocol=protocol, label_shape=label_shape, with_scores=with_scores
    )
    if mesh:
        whole, part = P(), P(AXIS)
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(whole, whole, part, part, part, whole, part, part, part),
            out_specs=part,
            check_vma=False,
        )
    return run(*arrays)


def _segment(
    model: Model,
    vocabulary: Vocabulary,
    pixels: jax.Array,
    sizes: jax.Array,
    original_sizes: jax.Array,
    threshold: jax.Array | None,
    candidates: jax.Array | None,
    regions: jax.Array | None,
    truth: jax.Array | None,
    *,
    protocol: Protocol,
    label_shape: Pair,
    with_scores: bool,
) -> tuple[jax.Array, jax.Array | None]:
    """`segment`, with the threshold apart from the protocol."""
    scores = _Scores(model, pixels, sizes, original_sizes, protocol, label_shape)
    softmax = protocol.needs_softmax(scores.system.scores_are_probabilities)
    rules = Rules(softmax, threshold, candidates)
    names = len(vocabulary.class_ids)
    refined = protocol.pamr_steps and protocol.short_side  # at the size of the labels
    area = math.prod(label_shape if refined else pixels.shape[1:3])
    at_once = max(1, _SCORES_AT_ONCE // (len(pixels) * area))
    joint = with_scores or protocol.flip or protocol.area or truth is not None
    joint = joint or not scores.system.independent_names
    chunks = 1 if joint else math.ceil(names / at_once)
    if regions is not None:
        return name_regions(scores, vocabulary, chunks, rules, regions), None
    if chunks > 1:
        return decide_in_chunks(scores, vocabulary, chunks, rules), None

    if truth is None:
        views = scores.of(vocabulary)
    else:
        views = name_proposals(scores, vocabulary, truth, original_sizes)

    def decided(rules, with_scores, kept=None):
        function = functools.partial(
            decide,
            class_ids=vocabulary.class_ids,
            rules=rules,
            with_scores=with_scores,
            kept=kept,
        )
        return scores.at_labels(function, views)

    if not protocol.area:
        return decided(rules, with_scores)
    labels, _ = decided(rules._replace(threshold=None), with_scores=False)
    shown = inside(original_sizes, labels.shape[1:])
    kept = large_classes(labels, shown, vocabulary.class_ids, protocol.area)
    return decided(rules, with_scores, kept)


class _Scores:
    """Scores of one batch of canvases for any names; the pictures are encoded once."""

    def __init__(
        self,
        model: Model,
        pixels: jax.Array,
        sizes: jax.Array,
        original_sizes: jax.Array,
        protocol: Protocol,
        label_shape: Pair,
    ):
        """Encodes the pictures; arguments as `segment`."""
        self.system, self.protocol = model.system(), protocol
        self.sizes, self.original_sizes = sizes, original_sizes
        shape = pixels.shape[1:3]
        self.images = model.images(pixels, sizes)
        crop = _window_shape(shape, protocol)
        stride = (protocol.stride,) * 2 if protocol.crop else shape
        self.windows = lay_windows(sizes, shape, crop, stride, WINDOW_BATCH)
        views = [self.images, _mirror(self.images, sizes)] if protocol.flip else [self.images]
        self.views = len(views)
        self.features = [
            encode_windows(self.system.encode, view, sizes, self.windows) for view in views
        ]
        if protocol.short_side:
            down, across = traced_matrices(shape, sizes, original_sizes, label_shape)
            # A mirrored view comes back mirrored by the order of the rows of its matrix.
            turned = _mirror(across[:, None], original_sizes)[:, 0]
            self.down, self.across = down, [across, turned][: len(views)]

    def of(self, names: Vocabulary) -> list[jax.Array | Mixture]:
        """Scores [B, h, w, N] of each view, on the canvas or, refined, at the label shape.

        Those that are to be resized may be sums of maps that are not added up yet.
        """
        protocol, windows = self.protocol, self.windows
        # Windows within a picture are all picture.
        partly = protocol.patch > 1 and windows.shape != (protocol.crop,) * 2

        def decode(features, corners):
            sizes = None
            if partly:
                sizes = jnp.minimum(self.sizes[corners[:, 0]], jnp.asarray(windows.shape))
            return self.system.decode(features, names, windows.shape, sizes)

        if protocol.short_side and (mixtures := self.mixtures(names)):
            return mixtures
        views = [mean_scores(decode, features, windows) for features in self.features]
        if not protocol.short_side:
            views[1:] = [_mirror(view, self.sizes) for view in views[1:]]
        if not protocol.pamr_steps:
            return views
        images = self.images
        if protocol.short_side:
            images = apply_matrices(images, self.down, self.across[0])
            views = self._resized(views, self.down)
        options = dict(steps=protocol.pamr_steps, dilations=protocol.pamr_dilations)
        return [pamr(images, view, self.original_sizes, **options) for view in views]

    def mixtures(self, names: Vocabulary) -> list[Mixture] | None:
        """Scores of each view as sums of maps; None where windows or neighbours want the sums."""
        protocol, shape = self.protocol, self.images.shape[1:3]
        if protocol.pamr_steps or self.windows.shape != shape:
            return None
        sizes = self.sizes if protocol.patch > 1 else None

        def mixture(features):
            # A window of each picture, in their order; others fill up the last step.
            features = jax.tree.map(
                lambda x: x.reshape(-1, *x.shape[2:])[: len(self.images)], features
            )
            return self.system.mixture(features, names, shape, sizes)

        mixtures = [mixture(features) for features in self.features]
        if mixtures[0] is None:
            return None
        if not protocol.short_side:
            mixtures[1:] = [x._replace(maps=_mirror(x.maps, self.sizes)) for x in mixtures[1:]]
        return mixtures

    def at_labels(
        self,
        function: Callable,
        views: list[jax.Array | Mixture],
        *maps: jax.Array,
        join: Callable | None = None,
    ) -> Any:
        """A function of the views' scores at the label shape.

        Args:
          function: (views, *maps) -> arrays; sees rows of the pictures in turn.
          views: what `of` returned.
          *maps: [B, *label_shape], further arguments.
          join: puts the results for parts of the rows together, [parts, ...] -> [...]; if not
            given, the function is of every pixel for itself, [parts, B, rows, W, ...].
        """
        if self.protocol.pamr_steps or not self.protocol.short_side:
            return function([x.scores() if isinstance(x, Mixture) else x for x in views], *maps)
        # Block by block, for N scores per pixel of the original would be the largest array by far.
        blocks = [
            x.reshape(len(x), -1, _SIZE_BUCKET, x.shape[2]).swapaxes(0, 1)
            for x in (self.down, *maps)
        ]
        results = jax.lax.map(
            lambda block: function(self._resized(views, block[0]), *block[1:]), blocks
        )
        return jax.tree.map(join or _join_rows, results)

    def _resized(self, views: list[jax.Array | Mixture], down: jax.Array) -> list[jax.Array]:
        def resized(view, across):
            if isinstance(view, Mixture):
                return view._replace(maps=apply_matrices(view.maps, down, across)).scores()
            return apply_matrices(view, down, across)

        return [resized(view, across) for view, across in zip(views, self.across, strict=True)]


def _join_rows(blocks: jax.Array) -> jax.Array:
    """[blocks, B, rows, W, ...] -> [B, blocks * rows, W, ...]."""
    joined = blocks.swapaxes(0, 1)
    return joined.reshape(joined.shape[0], -1, *joined.shape[3:])


def _mirror(images: jax.Array, sizes: jax.Array) -> jax.Array:
    """Flips the picture part of canvases [B, H, W, C] from left to right."""
    width = sizes[:, 1, None]
    column = jnp.arange(images.shape[2])
    source = jnp.where(column < width, width - 1 - column, column)  # [B, W]
    return jnp.take_along_axis(images, source[:, None, :, None], axis=2)


def segment_canvases(
    model: Model,
    vocabulary: Vocabulary,
    canvases: list[Canvas],
    protocol: Protocol,
    with_scores: bool = False,
    **options: Any,
) -> tuple[jax.Array, jax.Array | None]:
    """Segments canvases of one shape; arguments, `options` too, and result as in `segment`."""
    return segment(
        model,
        vocabulary,
        np.stack([canvas.pixels for canvas in canvases]),
        np.asarray([canvas.size for canvas in canvases], np.int32),
        np.asarray([canvas.original_size for canvas in canvases], np.int32),
        protocol=protocol,
        label_shape=canvases[0].label_shape,
        with_scores=with_scores,
        **options,
    )


@jax.jit
def encode_dense(model: Model, pixels: jax.Array) -> jax.Array:
    """Patch features [B, h, w, E] of whole pictures, uint8 or normalised float32 [B, H, W, 3]."""
    system = model.system()
    features = system.encode(normalize(pixels, model.mean, model.std))
    return system.dense_features(features, pixels.shape[1:3])


@jax.jit
def encode_vocabulary(model: Model, tokens: jax.Array) -> jax.Array:
    """Embeds prompts: tokens int32 [n, P, L], P per query -> [n, D]."""
    return model.system().encode_vocabulary(tokens)
