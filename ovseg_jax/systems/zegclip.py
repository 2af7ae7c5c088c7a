"""ZegCLIP: a frozen CLIP with deep prompts and a cross-attention decoder, one mask per name.

Zhou et al., "ZegCLIP: Towards Adapting CLIP for Zero-shot Semantic Segmentation", CVPR 2023.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.losses.masks import NO_CLASS, best_class, has_class, mask_losses
from ovseg_jax.networks.clip import CLIP, CLIPConfig, encode_prompts
from ovseg_jax.networks.zegclip import DeepPrompts, RelationshipDecoder, prompted_features
from ovseg_jax.ops.resize import resize
from ovseg_jax.systems.clip import clip_config
from ovseg_jax.systems.system import System, read_settings
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import ParamGroup

SETTINGS = ("inductive", "transductive", "full")
IGNORE = 255  # label of pixels without ground truth


@dataclasses.dataclass(frozen=True)
class ZegCLIPConfig:
    """Sizes and choices; the defaults are the published ones for COCO-Stuff."""

    clip: CLIPConfig  # the size of its image tower is the crop: its position table is resized
    setting: str = "inductive"  # 'inductive' | 'transductive' (pseudo labels) | 'full'
    prompt_tokens: int = 100  # 10 for VOC
    prompt_depth: int = 11  # see `DeepPrompts`
    decoder_layers: int = 3
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    relationship_descriptor: bool = True  # False: queries from the text alone (ablation)
    input_scale: float = 1.0  # on the unit-length inputs of the decoder; sqrt(width) for small ones
    dropout: float = 0.1  # on prompts and in the decoder
    mask_weight: float = 100.0
    dice_weight: float = 1.0
    ignore_unlabelled: bool = False  # True: pixels without a class are no negatives
    calibration: float = 0.1  # taken off the scores of seen classes, unless transductive
    class_chunk: int = 16  # classes whose masks are at full resolution at once in the loss

    def __post_init__(self):
        if self.setting not in SETTINGS:
            raise UserError(
                f"unknown setting {self.setting!r} of zegclip; choose one of {', '.join(SETTINGS)}."
            )


class ZegCLIP(System):
    """The system; parameter paths `clip/…`, `prompts/…`, `head/…`."""

    def __init__(self, config: ZegCLIPConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        image = config.clip.image
        self.config = config
        self.dtype = dtype
        self.clip = CLIP(config.clip, rngs=rngs, dtype=dtype)
        self.prompts = DeepPrompts(
            config.prompt_tokens, image.width, config.prompt_depth, image.patch_size, rngs=rngs
        )
        self.head = RelationshipDecoder(
            config.clip.embed_dim,
            heads=config.decoder_heads,
            layers=config.decoder_layers,
            hidden=config.decoder_hidden,
            relationship_descriptor=config.relationship_descriptor,
            rngs=rngs,
        )

    def encode_vocabulary(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [n, P, L] -> unit-length class embeddings float32 [n, E]."""
        return encode_prompts(self.clip.text, tokens)

    def masks(
        self, image: jax.Array, embeddings: jax.Array, rngs: nnx.Rngs | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mask logits on the patch grid.

        Args:
          image: float32 [B, H, W, 3], normalised.
          embeddings: float32 [C, E], one per class.
          rngs: None = no dropout.

        Returns:
          float32 [B, h, w, C], and the values on the way (see `prompted_features` and
          `RelationshipDecoder`), with `cls` [B, E] and `patches` [B, h·w, E].
        """
        cls, patches, trace = self._features(image, rngs)
        masks, decoded = self._decode(cls, patches, embeddings, self.clip.image.grid(image), rngs)
        return masks, trace | {"cls": cls, "patches": patches} | decoded

    def _features(self, image: jax.Array, rngs: nnx.Rngs | None):
        return prompted_features(
            self.clip.image, self.prompts, image, dropout_rate=self.config.dropout, rngs=rngs
        )

    def _decode(self, cls, patches, embeddings, grid: tuple[int, int], rngs: nnx.Rngs | None):
        """Mask logits [B, *grid, C] from features, and the values on the way."""
        rate, scale = self.config.dropout, self.config.input_scale
        inputs = ((x * scale).astype(self.dtype) for x in (embeddings, cls, patches))
        scores, decoded = self.head(*inputs, dropout_rate=rate, rngs=rngs)  # [B, C, h·w]
        return scores.transpose(0, 2, 1).reshape(len(cls), *grid, -1), decoded

    def training_labels(
        self, labels: jax.Array, masks: jax.Array, vocabulary: Vocabulary
    ) -> jax.Array:
        """The labels that the loss sees.

        Pixels whose label has no row in the vocabulary get NO_CLASS: in the inductive setting the
        vocabulary holds the seen classes only. In the transductive setting pixels of unseen
        classes get the unseen class with the largest logit (the labels tell where, not which).

        Args:
          labels: int [B, H, W].
          masks: float32 [B, h, w, C], the current logits.
          vocabulary: C rows.

        Returns:
          int32 [B, H, W], class ids or NO_CLASS.
        """
        ids, real = vocabulary.class_ids, vocabulary.class_ids >= 0
        if self.config.setting != "transductive":
            return jnp.where((labels != IGNORE) & has_class(labels, ids), labels, NO_CLASS)
        pseudo = best_class(
            masks,
            ids,
            real & ~vocabulary.seen,
            labels.shape[1:],
            chunk=self.config.class_chunk,
        )
        seen = has_class(labels, jnp.where(vocabulary.seen, ids, -1))
        return jnp.where(labels == IGNORE, NO_CLASS, jnp.where(seen, labels, pseudo))

    def loss(
        self, batch: dict[str, jax.Array], vocabulary: Vocabulary, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Focal plus dice loss of the class masks.

        Args:
          batch: `image` float32 [B, H, W, 3], normalised; `label` int [B, H, W], 255 = ignore.
          vocabulary: the classes that compete in training.
          rngs: for dropout; None = without.

        Returns:
          The loss and the scalars `loss_mask`, `loss_dice` (weighted) and `pixel_accuracy`.
        """
        config, ids = self.config, vocabulary.class_ids
        masks, _ = self.masks(batch["image"], vocabulary.embeddings, rngs)
        labels = self.training_labels(batch["label"], masks, vocabulary)
        losses = mask_losses(
            masks,
            labels,
            ids,
            chunk=config.class_chunk,
            ignore_unlabelled=config.ignore_unlabelled,
        )
        best = best_class(masks, ids, ids >= 0, labels.shape[1:], chunk=config.class_chunk)
        labelled = (labels != NO_CLASS).sum()
        scalars = {
            "loss_mask": config.mask_weight * losses.focal,
            "loss_dice": config.dice_weight * losses.dice,
            "pixel_accuracy": (best == labels).sum() / jnp.maximum(labelled, 1),
        }
        return scalars["loss_mask"] + scalars["loss_dice"], scalars

    def scores(self, masks: jax.Array, vocabulary: Vocabulary) -> jax.Array:
        """Mask logits [B, h, w, C] -> calibrated sigmoids at the model's own size, float32."""
        size = self.config.clip.image.image_size
        scores = jax.nn.sigmoid(resize(masks, (size, size)))
        if self.config.setting == "transductive":
            return scores
        return scores - self.config.calibration * vocabulary.seen

    @property
    def scores_are_probabilities(self) -> bool:
        """They are sigmoids, but for the calibration."""
        return True

    @property
    def patch_size(self) -> int:
        """Of CLIP's transformer."""
        return self.config.clip.image.patch_size

    def encode(
        self, image: jax.Array, sizes: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Embeddings [B, E] of normalised pictures [B, H, W, 3] and of their patches [B, N, E]."""
        cls, patches, _ = self._features(image, None)
        return cls, patches

    def decode(
        self,
        features: tuple[jax.Array, jax.Array],
        vocabulary: Vocabulary,
        shape: tuple[int, int],
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        """Sigmoids minus the calibration of seen classes, float32 [B, *shape, N].

        Raises:
          UserError: with `sizes`; the decoder attends to all patches of a window.
        """
        if sizes is not None:
            raise UserError("zegclip has one size of windows; set config.eval.patch to 0.")
        masks, _ = self._decode(*features, vocabulary.embeddings, self._grid(shape), None)
        return resize(self.scores(masks, vocabulary), shape)

    def dense_features(
        self, features: tuple[jax.Array, jax.Array], shape: tuple[int, int]
    ) -> jax.Array:
        """The patches' embeddings that the decoder attends to, [B, h, w, E]."""
        return features[1].reshape(len(features[1]), *self._grid(shape), -1)

    def _grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        return shape[0] // self.patch_size, shape[1] // self.patch_size

    def param_groups(self) -> tuple[ParamGroup, ...]:
        """Prompts and decoder train, save what has no path to the loss; norms decay as well.

        PyTorch skips parameters without a gradient, weight decay included, so the published ones
        never move: they stay in the model for the checkpoints' sake, frozen.
        """
        prompts = (
            "embeddings|deep_embeddings|projection|norm"
            if self.prompts.depth
            else ("embeddings|projection")
        )
        last = self.config.decoder_layers - 1
        return (
            ParamGroup(rf"^prompts/({prompts})(/|$)"),
            ParamGroup(r"^head/query_projection/"),
            ParamGroup(r"^head/layers/\d+/attention/(query|key)/"),
            ParamGroup(rf"^head/layers/(?!{last}/)\d+/(attention|mlp|norm2|norm3)/"),
        )

    @property
    def idle(self) -> tuple[str, ...]:
        """What does not train of these has no path to the masks."""
        return ("prompts/", "head/")


def create(config: ConfigDict, rngs: nnx.Rngs) -> ZegCLIP:
    """Builds the system from a run's config.

    Args:
      config: `system` holds `name`, `clip` (`embed_dim`, `image`, `text`) and any other field of
        `ZegCLIPConfig`; `dtype` is the compute type.
      rngs: for the initial parameters.
    """
    fields = read_settings(config, ZegCLIPConfig)
    sizes = clip_config(config.system.clip)
    return ZegCLIP(ZegCLIPConfig(clip=sizes, **fields), rngs=rngs, dtype=jnp.dtype(config.dtype))
