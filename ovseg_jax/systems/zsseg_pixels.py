"""zsseg's baseline without proposals: every pixel is named by itself, the picture by CLIP.

Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation with Pre-trained
Vision-language Model", ECCV 2022, the "FCN" approach of section 3.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.losses.masks import has_class
from ovseg_jax.networks.clip import CLIP, CLIPConfig, encode_prompts, normalize
from ovseg_jax.networks.mask_scores import cosine_logits, ensemble, trained_on
from ovseg_jax.networks.maskformer import PixelEmbedder
from ovseg_jax.networks.pixel_decoder import PixelDecoderConfig
from ovseg_jax.networks.resnet import ResNetConfig
from ovseg_jax.ops.resize import resize
from ovseg_jax.pictures import IMAGENET_MEAN, IMAGENET_STD
from ovseg_jax.systems.clip import as_clip_reads, clip_config
from ovseg_jax.systems.maskformer import param_groups
from ovseg_jax.systems.system import System, read_part, read_settings
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import ParamGroup

IGNORE = 255
STRIDE = 4  # pixels that share an embedding, along each side


@dataclasses.dataclass(frozen=True)
class ZSSegPixelsConfig:
    """Sizes and choices; the defaults are the published ones."""

    clip: CLIPConfig
    backbone: ResNetConfig = dataclasses.field(default_factory=ResNetConfig)
    pixel_decoder: PixelDecoderConfig = dataclasses.field(default_factory=PixelDecoderConfig)
    ensemble_weight: float = 0.7  # as zsseg's; above 1 pixels count alone, below 0 the picture
    image_mean: tuple[float, ...] = IMAGENET_MEAN  # how the backbone's pictures are normalised
    image_std: tuple[float, ...] = IMAGENET_STD


class Pixels(NamedTuple):
    """What a picture says without names.

    Attributes:
      embeddings: of 4 x 4 pixels each, float32 [B, h, w, E].
      picture: CLIP's feature, float32 [B, E].
    """

    embeddings: jax.Array
    picture: jax.Array


class ZSSegPixels(System):
    """The system; parameter paths `clip/…` and `maskformer/…`."""

    def __init__(self, config: ZSSegPixelsConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.clip = CLIP(config.clip, rngs=rngs, dtype=dtype)
        self.maskformer = PixelEmbedder(
            config.backbone, config.pixel_decoder, config.clip.embed_dim, rngs=rngs, dtype=dtype
        )

    def encode_vocabulary(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [n, P, L] -> unit-length class embeddings float32 [n, E]."""
        return encode_prompts(self.clip.text, tokens)

    def loss(
        self, batch: dict[str, jax.Array], vocabulary: Vocabulary, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross-entropy of all pixels that have a class of the vocabulary.

        Args:
          batch: `image` float32 [B, H, W, 3], normalised; `label` int [B, H, W], 255 = ignore.
          vocabulary: the classes that compete in training.
          rngs: unused; nothing is random.

        Returns:
          The loss and the scalar `pixel_accuracy`.
        """
        ids = vocabulary.class_ids
        logits = cosine_logits(self.maskformer(batch["image"]), vocabulary.embeddings)

        @jax.checkpoint  # N floats for each pixel of the batch would be most of the memory
        def sums(picture):
            logits, label = picture
            scores = jnp.where(ids >= 0, resize(logits, label.shape), -jnp.inf)  # [H, W, N]
            known = (label != IGNORE) & has_class(label, ids)
            row = (label[..., None] == ids).argmax(-1)
            costs = -jnp.take_along_axis(jax.nn.log_softmax(scores), row[..., None], -1)[..., 0]
            hits = known & (scores.argmax(-1) == row)
            return jnp.where(known, costs, 0.0).sum(), hits.sum(), known.sum()

        costs, hits, count = (x.sum() for x in jax.lax.map(sums, (logits, batch["label"])))
        count = jnp.maximum(count, 1)
        return costs / count, {"pixel_accuracy": hits / count}

    def param_groups(self) -> tuple[ParamGroup, ...]:
        """As MaskFormer."""
        return param_groups()

    @property
    def independent_names(self) -> bool:
        """Names compete in a softmax."""
        return False

    @property
    def scores_are_probabilities(self) -> bool:
        """Nearly: a product of powers of probabilities."""
        return True

    @property
    def patch_size(self) -> int:
        """Of `dense_features`."""
        return STRIDE

    def encode(self, image: jax.Array, sizes: jax.Array | None = None) -> Pixels:
        """Embeds pixels and pictures, float32 [B, H, W, 3], normalised."""
        whole = as_clip_reads(image, self.config.image_mean, self.config.image_std)
        return Pixels(self.maskformer(image), self.clip.encode_image(whole))

    def decode(
        self,
        features: Pixels,
        vocabulary: Vocabulary,
        shape: tuple[int, int],
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        """Probabilities of pixels, times those of the picture, float32 [B, *shape, N].

        The reference resizes embeddings to the size of the original before they are compared; here
        it is the scores that are resized behind this.
        """
        return self.scores(self.spread(features.embeddings, shape), features.picture, vocabulary)

    @staticmethod
    def spread(embeddings: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Embeddings [B, h, w, E] -> of single pixels [B, *shape, E]."""
        full = tuple(STRIDE * n for n in embeddings.shape[1:3])
        return resize(embeddings, full)[:, : shape[0], : shape[1]]

    def scores(
        self, embeddings: jax.Array, picture: jax.Array, vocabulary: Vocabulary
    ) -> jax.Array:
        """Scores float32 [B, H, W, N] of pixels [B, H, W, E] in pictures [B, E]."""
        real = vocabulary.class_ids >= 0

        def probabilities(features):
            logits = cosine_logits(features, vocabulary.embeddings)
            return jax.nn.softmax(jnp.where(real, logits, -jnp.inf), axis=-1)

        weight = self.config.ensemble_weight
        if weight > 1:
            return probabilities(embeddings)
        whole = probabilities(picture)[:, None, None]  # [B, 1, 1, N]
        if weight < 0:
            return jnp.broadcast_to(whole, (*embeddings.shape[:3], whole.shape[-1]))
        seen = trained_on(vocabulary.seen, real)
        return ensemble(probabilities(embeddings), whole, seen, weight)

    def dense_features(self, features: Pixels, shape: tuple[int, int]) -> jax.Array:
        """The embeddings, of unit length, [B, h, w, E]."""
        return normalize(features.embeddings)


def create(config: ConfigDict, rngs: nnx.Rngs) -> ZSSegPixels:
    """Builds the system from a run's config.

    Args:
      config: `system` holds `name`, `clip` (`embed_dim`, `image`, `text`), `backbone`,
        `pixel_decoder` and any other field of `ZSSegPixelsConfig`; `image` the statistics of
        pixels; `dtype` is the compute type.
      rngs: for the initial parameters.
    """
    fields = read_settings(config, ZSSegPixelsConfig, ("name", "clip", "backbone", "pixel_decoder"))
    settings = ZSSegPixelsConfig(
        clip=clip_config(config.system.clip),
        backbone=read_part(config, "backbone", ResNetConfig),
        pixel_decoder=read_part(config, "pixel_decoder", PixelDecoderConfig),
        image_mean=tuple(config.image.mean),
        image_std=tuple(config.image.std),
        **fields,
    )
    return ZSSegPixels(settings, rngs=rngs, dtype=jnp.dtype(config.dtype))
