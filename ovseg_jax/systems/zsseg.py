"""zsseg: MaskFormer proposes masks, and CLIP names them twice.

Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation with Pre-trained
Vision-language Model", ECCV 2022. A query is compared with names in the space of CLIP's text, and
what its mask cuts out of the picture goes through CLIP's image tower; both answers are mixed.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.losses.matching import TermWeights
from ovseg_jax.losses.set_criterion import set_losses
from ovseg_jax.networks.clip import CLIP, CLIPConfig, encode_prompts, normalize
from ovseg_jax.networks.detr import LayerConfig, Perceptron
from ovseg_jax.networks.layers import normal
from ovseg_jax.networks.mask_scores import (
    cosine_logits,
    name_scores,
    query_probabilities,
    trained_on,
    with_no_object,
)
from ovseg_jax.networks.maskformer import MaskFormer, MaskFormerConfig, PredictorConfig
from ovseg_jax.networks.pixel_decoder import PixelDecoderConfig
from ovseg_jax.networks.prompts import FULL_STOP, LearnedPrompt
from ovseg_jax.networks.resnet import ResNetConfig
from ovseg_jax.ops.masks import inside, region_masks
from ovseg_jax.ops.mixture import Mixture
from ovseg_jax.ops.regions import cut_regions, expand_boxes, mask_boxes
from ovseg_jax.ops.resize import resize
from ovseg_jax.ops.valid_rows import map_valid
from ovseg_jax.pictures import IMAGENET_MEAN, IMAGENET_STD
from ovseg_jax.systems.clip import CLIP_BLACK, as_clip_reads, clip_config
from ovseg_jax.systems.maskformer import BACKBONE_RATE, param_groups
from ovseg_jax.systems.system import NamedMasks, System, read_part, read_settings
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import ParamGroup

FILLS = ("mean", "zero")
_REGIONS_AT_ONCE = 20  # that CLIP looks at


@dataclasses.dataclass(frozen=True)
class ZSSegConfig:
    """Sizes and choices; the defaults are the published ones for COCO-Stuff."""

    clip: CLIPConfig
    maskformer: MaskFormerConfig = dataclasses.field(default_factory=MaskFormerConfig)
    class_hidden: int = 1024  # of the projection from queries to CLIP's space
    class_layers: int = 2  # likewise
    deep_supervision: bool = True  # whether all decoder layers have a loss, or the last one alone
    prefix: int = 0  # learned vectors before a name; without any, prompts are the templates'
    suffix: int = 0  # and behind it
    full_stop: int = FULL_STOP  # token id that ends learned prompts
    learn_prompt: bool = False  # whether the prompt trains here and not in a stage before
    query_prompts: int = 0  # see `ZSSeg.encode_vocabulary`
    label_weight: float = 1.0
    mask_weight: float = 20.0
    dice_weight: float = 1.0
    no_object_weight: float = 0.1
    ignore_unlabelled: bool = False  # True: pixels of no trained class are no negatives of masks
    backbone_rate: float = BACKBONE_RATE  # 1 where the backbone starts from random weights
    ensemble: bool = True  # False: queries name the masks alone
    ensemble_weight: float = 0.8  # see `networks.mask_scores.name_scores`
    mask_threshold: float = 0.5  # least probability of a region's pixels
    mask_expand: float = 1.0  # side of a region's box over that of its mask
    mask_fill: str = "mean"  # of CLIP's pictures, or 'zero', black
    region_size: int = 224  # side of what CLIP's image tower gets, whatever its own
    matting: bool = False  # whether regions are weighed by the probabilities of the mask
    image_mean: tuple[float, ...] = IMAGENET_MEAN  # how MaskFormer's pictures are normalised
    image_std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self):
        if self.mask_fill not in FILLS:
            raise UserError(
                f"unknown config.system.mask_fill {self.mask_fill!r}; it is {' or '.join(FILLS)}."
            )
        if self.learn_prompt and (self.query_prompts or not self.prefix + self.suffix):
            raise UserError(
                "zsseg can learn a prompt only where queries read one; set config.system.prefix "
                "above 0 and query_prompts to 0, or learn_prompt to False."
            )


class Proposals(NamedTuple):
    """What a picture says without names; Q queries.

    Attributes:
      queries: embeddings in CLIP's space, not of unit length, float32 [B, Q, E].
      masks: logits, float32 [B, Q, h, w], at a quarter of the picture's size.
      regions: CLIP's features of what the masks cut out, likewise; ones where that is nothing.
      valid: bool [B, Q], whether a mask cuts out anything.
    """

    queries: jax.Array
    masks: jax.Array
    regions: jax.Array
    valid: jax.Array


class ZSSeg(System):
    """The system; parameter paths `clip/…`, `maskformer/…`, `prompt/…`, `no_object`."""

    def __init__(self, config: ZSSegConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        embed_dim, width = config.clip.embed_dim, config.clip.text.width
        self.config = config
        self.clip = CLIP(config.clip, rngs=rngs, dtype=dtype)
        class_head = Perceptron(
            config.maskformer.predictor.layer.dim,
            config.class_hidden,
            embed_dim,
            config.class_layers,
            rngs=rngs,
        )
        self.maskformer = MaskFormer(config.maskformer, class_head, rngs=rngs, dtype=dtype)
        self.prompt = (
            LearnedPrompt(
                config.prefix, config.suffix, width, rngs=rngs, full_stop=config.full_stop
            )
            if config.prefix + config.suffix
            else None
        )
        no_object = functools.partial(normal(width**-0.5), shape=(1, embed_dim), dtype=jnp.float32)
        self.no_object = nnx.Param(no_object(rngs.params()))
        # Regions do not compete with it; it is there because published checkpoints hold one.
        self.region_no_object = (
            nnx.Param(no_object(rngs.params())) if config.query_prompts else None
        )

    # --- Names -------------------------------------------------------------------------------

    @property
    def text_trains(self) -> bool:
        """Whether the prompt does."""
        return self.config.learn_prompt

    def encode_vocabulary(self, tokens: jax.Array) -> jax.Array:
        """Embeds names for queries and regions.

        Of the prompts of a name, the first `query_prompts` are for queries and the others for
        regions; with 0, all are for both. A learned prompt takes bare names (the template "{}"). It
        is the regions' where they have prompts of their own.

        Args:
          tokens: int [n, P, L].

        Returns:
          Unit-length embeddings float32 [n, E], or [n, 2E], those for regions last.

        Raises:
          UserError: no prompt is left for regions.
        """
        read = self.clip.text
        if self.prompt:
            read = functools.partial(self.prompt.encode, self.clip.text)
        own = self.config.query_prompts
        if not own:
            return encode_prompts(read, tokens)
        if tokens.shape[1] <= own:
            raise UserError(
                f"queries read the first {own} of a name's prompts and regions the others, but "
                f"there are {tokens.shape[1]}; give more templates."
            )
        queries = encode_prompts(self.clip.text, tokens[:, :own])
        return jnp.concatenate([queries, encode_prompts(read, tokens[:, own:])], axis=-1)

    def _names(self, vocabulary: Vocabulary) -> tuple[jax.Array, jax.Array]:
        """Rows [N + 1, E] that queries and regions are compared with, no object last."""
        embeddings, dim = vocabulary.embeddings, self.config.clip.embed_dim
        queries = with_no_object(embeddings[:, :dim], self.no_object[...])
        if self.region_no_object is None:
            return queries, queries
        return queries, with_no_object(embeddings[:, dim:], self.region_no_object[...])

    # --- Training ----------------------------------------------------------------------------

    def loss(
        self, batch: dict[str, jax.Array], vocabulary: Vocabulary, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """MaskFormer's loss, with names for classes; CLIP's image tower has no part in it.

        Classes without a row in the vocabulary, the unseen ones, are no targets: as pixels without
        a label they are negatives of every mask, unless `ignore_unlabelled` leaves them out.

        Args:
          batch: `image` float32 [B, H, W, 3], normalised; `label` int [B, H, W]; `classes` int
            [B, K], the classes of the label, filled up with -1.
          vocabulary: the classes that compete in training, with tokens if the prompt trains.
          rngs: for dropout; None = without.

        Returns:
          The loss and its unweighted terms, see `set_losses`.
        """
        config = self.config
        if config.learn_prompt:
            embeddings = self.encode_vocabulary(vocabulary.tokens)
            vocabulary = dataclasses.replace(vocabulary, embeddings=embeddings)
        classes, rows = targets(batch["classes"], vocabulary)
        outputs = self.maskformer(batch["image"], all_layers=config.deep_supervision, rngs=rngs)
        names, _ = self._names(vocabulary)
        masks = region_masks(batch["label"], classes)
        competes = jnp.append(vocabulary.class_ids >= 0, True)
        return set_losses(
            jnp.where(competes, cosine_logits(outputs.classes, names), -jnp.inf),
            outputs.masks,
            rows,
            masks,
            weights=TermWeights(config.label_weight, config.mask_weight, config.dice_weight),
            no_object_weight=config.no_object_weight,
            valid=masks.any(1) if config.ignore_unlabelled else None,
        )

    def param_groups(self) -> tuple[ParamGroup, ...]:
        """MaskFormer, the vector for no object and, if it is to be learned here, the prompt."""
        prompt = (ParamGroup(r"^prompt/"),) if self.config.learn_prompt else ()
        maskformer = param_groups(backbone_rate=self.config.backbone_rate)
        return (*maskformer, ParamGroup(r"^no_object$"), *prompt)

    @property
    def idle(self) -> tuple[str, ...]:
        """The regions' vector for no object: it does not compete."""
        return ("region_no_object",)

    # --- Prediction --------------------------------------------------------------------------

    @property
    def independent_names(self) -> bool:
        """Names of a query compete in a softmax."""
        return False

    @property
    def scores_are_probabilities(self) -> bool:
        """Nearly: sums of products of probabilities."""
        return True

    @property
    def proposes_masks(self) -> bool:
        """Those of the queries."""
        return True

    @property
    def patch_size(self) -> int:
        """Masks have a quarter of the picture's size."""
        return 4

    def encode(self, image: jax.Array, sizes: jax.Array | None = None) -> Proposals:
        """Proposes masks and looks at what they cut out.

        Args:
          image: float32 [B, H, W, 3], normalised.
          sizes: int32 [B, 2], how much of each is picture; None = all.
        """
        if sizes is None:
            sizes = jnp.tile(jnp.asarray(image.shape[1:3]), (len(image), 1))
        outputs = self.maskformer(image, all_layers=False)
        queries, masks = outputs.classes[-1], outputs.masks[-1]
        if not self.config.ensemble:
            regions, valid = jnp.ones_like(queries), jnp.ones(queries.shape[:2], bool)
        elif len(image) == 1:  # a loop of one step would run with fewer threads on CPUs
            regions, valid = (x[None] for x in self._look(image[0], masks[0], sizes[0]))
        else:
            regions, valid = jax.lax.map(lambda one: self._look(*one), (image, masks, sizes))
        return Proposals(queries, masks, regions, valid)

    def _look(
        self, image: jax.Array, logits: jax.Array, size: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """CLIP's features [Q, E] of the regions of one picture, and which of them exist [Q]."""
        config = self.config
        probabilities = self._probabilities(logits, image.shape[:2])  # [Q, H, W]
        masks = (probabilities > config.mask_threshold) & inside(size[None], image.shape[:2])
        boxes, valid = mask_boxes(masks)
        boxes = expand_boxes(boxes, config.mask_expand, size)
        pixels = as_clip_reads(image, config.image_mean, config.image_std)
        shown = probabilities if config.matting else masks
        fill = jnp.asarray(CLIP_BLACK if config.mask_fill == "zero" else np.zeros_like(CLIP_BLACK))

        def encode(rows):
            regions = cut_regions(pixels, shown[rows], boxes[rows], config.region_size, fill)
            return self.clip.encode_image(regions).astype(jnp.float32)

        # CLIP is most of the work. Ones, for zeros have no direction.
        return map_valid(encode, valid, _REGIONS_AT_ONCE, fill=1.0), valid

    @staticmethod
    def _probabilities(logits: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Mask logits [..., h, w] -> probabilities of pixels [..., *shape]."""
        return jax.nn.sigmoid(resize(logits[..., None], shape)[..., 0])

    def scores(self, features: Proposals, vocabulary: Vocabulary) -> jax.Array:
        """How well each name fits each query, float32 [B, Q, N]."""
        config = self.config
        real = vocabulary.class_ids >= 0
        names, region_names = self._names(vocabulary)
        logits = cosine_logits(features.queries, names)
        if not config.ensemble:
            return query_probabilities(logits, real)
        return name_scores(
            logits,
            cosine_logits(features.regions, region_names),
            features.valid,
            trained_on(vocabulary.seen, real),
            real,
            config.ensemble_weight,
        )

    def mixture(
        self,
        features: Proposals,
        vocabulary: Vocabulary,
        shape: tuple[int, int],
        sizes: jax.Array | None = None,
    ) -> Mixture:
        """Masks, and the scores of their names."""
        masks = self._probabilities(features.masks, shape).transpose(0, 2, 3, 1)  # [B, H, W, Q]
        return Mixture(masks, self.scores(features, vocabulary))

    def proposals(self, features: Proposals, vocabulary: Vocabulary) -> NamedMasks:
        """The masks of the queries and the name that fits each best."""
        scores = jnp.where(vocabulary.class_ids >= 0, self.scores(features, vocabulary), 0.0)
        return NamedMasks(jax.nn.sigmoid(features.masks), scores.argmax(-1), scores.max(-1))

    def dense_features(self, features: Proposals, shape: tuple[int, int]) -> jax.Array:
        """Embeddings of queries, weighted by their masks, [B, h, w, E]."""
        masks = jax.nn.sigmoid(features.masks).transpose(0, 2, 3, 1)  # [B, h, w, Q]
        return normalize(Mixture(masks, normalize(features.queries)).scores())


def targets(classes: jax.Array, vocabulary: Vocabulary) -> tuple[jax.Array, jax.Array]:
    """The classes that are targets, and their rows.

    Args:
      classes: int [B, K], label ids, filled up with -1.
      vocabulary: of training.

    Returns:
      The label ids and the rows in the vocabulary, int32 [B, K] each, those of the vocabulary
      first; -1 fills up.
    """
    known = (classes[..., None] == vocabulary.class_ids) & (vocabulary.class_ids >= 0)  # [B, K, N]
    rows = jnp.where(known.any(-1), known.argmax(-1), -1)
    order = jnp.argsort(rows < 0, axis=1, stable=True)
    rows = jnp.take_along_axis(rows, order, axis=1)
    return jnp.where(rows < 0, -1, jnp.take_along_axis(classes, order, axis=1)), rows


def maskformer_config(config: ConfigDict) -> MaskFormerConfig:
    """Reads `config.system.maskformer`: `backbone`, `pixel_decoder`, `predictor` and `layer`."""
    layer = read_part(config, "maskformer.layer", LayerConfig)
    return MaskFormerConfig(
        read_part(config, "maskformer.backbone", ResNetConfig),
        read_part(config, "maskformer.pixel_decoder", PixelDecoderConfig),
        read_part(config, "maskformer.predictor", PredictorConfig, layer=layer),
    )


def create(config: ConfigDict, rngs: nnx.Rngs) -> ZSSeg:
    """Builds the system from a run's config.

    Args:
      config: `system` holds `name`, `clip` (`embed_dim`, `image`, `text`), `maskformer` and any
        other field of `ZSSegConfig`; `image` the statistics of pixels; `dtype` is the compute type.
      rngs: for the initial parameters.
    """
    fields = read_settings(config, ZSSegConfig, ("name", "clip", "maskformer"))
    settings = ZSSegConfig(
        clip=clip_config(config.system.clip),
        maskformer=maskformer_config(config),
        image_mean=tuple(config.image.mean),
        image_std=tuple(config.image.std),
        **fields,
    )
    return ZSSeg(settings, rngs=rngs, dtype=jnp.dtype(config.dtype))
