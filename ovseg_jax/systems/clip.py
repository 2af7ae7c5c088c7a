"""CLIP as a system: contrastive training on captions, and its training-free dense read-out.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021. The
dense read-out compares every projected patch token with every name; it needs no mask at all and is
the starting point that a trained segmenter has to beat.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.losses.contrastive import contrastive_loss, entity_contrastive_loss
from ovseg_jax.networks.clip import (
    CLIP,
    CLIPConfig,
    TextConfig,
    VisionTransformer,
    ViTConfig,
    encode_prompts,
    normalize,
)
from ovseg_jax.networks.clip_resnet import ResNetConfig
from ovseg_jax.pictures import CLIP_MEAN, CLIP_STD
from ovseg_jax.systems.system import System, spread
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import ParamGroup

MAX_LOGIT_SCALE = 100.0
CLIP_BLACK = -np.float32(CLIP_MEAN) / np.float32(CLIP_STD)  # a black pixel, normalised


@dataclass(frozen=True)
class ClipSystemConfig:
    """What the system needs besides the sizes of its towers."""

    clip: CLIPConfig
    max_logit_scale: float = MAX_LOGIT_SCALE  # paper, section 2.5


class ClipSystem(System):
    """CLIP with a contrastive loss and a dense prediction."""

    def __init__(self, config: ClipSystemConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.clip = CLIP(config.clip, rngs=rngs, dtype=dtype)
        self.config = config

    def encode_vocabulary(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [n, P, L] -> unit-length class embeddings float32 [n, E]."""
        return encode_prompts(self.clip.text, tokens)

    def loss(self, batch, vocabulary: Vocabulary | None, rngs: nnx.Rngs | None):
        """Symmetric cross-entropy over the global batch of (image, caption) pairs.

        Where the batch names what the captions hold, the patches are contrasted with these names
        with equal weight.

        Args:
            batch: ``image`` float32 [B, H, W, 3] normalised, ``text`` int32 [B, L]; optionally, for
                an image transformer, ``entity_text`` int32 [B, K, M], zeros as padding.
            vocabulary: unused; captions are the supervision.
            rngs: unused; CLIP has no dropout.

        Returns:
            The loss and the scalars ``accuracy`` (image to text, in the batch), ``logit_scale``
            and, with names, ``entity_loss``.
        """
        scale = jnp.minimum(jnp.exp(self.clip.logit_scale[...]), self.config.max_logit_scale)
        scalars = {"logit_scale": scale}
        entity_loss = 0.0
        if "entity_text" in batch:
            if not isinstance(self.clip.image, VisionTransformer):
                raise UserError(
                    "names of patches need an image transformer and config.system.clip.image is a "
                    "ResNet; set max_entities of the transform 'tokenize' to 0."
                )
            pooled, patches = self.clip.image.pool_and_patches(batch["image"])
            names = batch["entity_text"]
            entities = normalize(self.clip.encode_text(names.reshape(-1, names.shape[-1])))
            entity_loss = entity_contrastive_loss(normalize(patches), entities, names, scale)
            scalars["entity_loss"] = entity_loss
        else:
            pooled = self.clip.encode_image(batch["image"], train=True)
        image, text = normalize(pooled), normalize(self.clip.encode_text(batch["text"]))
        hit = (image @ text.T).argmax(-1) == jnp.arange(len(image))
        scalars["accuracy"] = hit.mean()
        return contrastive_loss(image, text, scale) + entity_loss, scalars

    def encode(self, image: jax.Array, sizes: jax.Array | None = None) -> jax.Array:
        """Normalised pictures float32 [B, H, W, 3] -> unit-length patch features [B, h, w, E]."""
        return normalize(self.clip.image.dense(image))

    def decode(
        self,
        features: jax.Array,
        vocabulary: Vocabulary,
        shape: tuple[int, int],
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        """Cosines times the learned scale, float32 [B, *shape, N], bilinear from the patch grid."""
        scale = jnp.exp(self.clip.logit_scale[...])
        return spread(features @ vocabulary.embeddings.T * scale, shape, sizes)

    @property
    def patch_size(self) -> int:
        """Of the transformer, or the stride of the ResNet."""
        return self.config.clip.image.patch_size

    def dense_features(self, features: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """What `encode` gave, [B, h, w, E]."""
        return features

    def param_groups(self) -> tuple[ParamGroup, ...]:
        """All parameters train; gains, biases and tables do not decay (paper, section 2.5)."""
        undecayed = r"(bias|scale|logit_scale|positions|class_token)$"
        return (ParamGroup(undecayed, weight_decay=0.0), ParamGroup(""))


def as_clip_reads(image: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """Pictures [..., 3] that were normalised by these statistics, by CLIP's instead."""
    pixels = image * np.float32(std) + np.float32(mean)
    return pixels / np.float32(CLIP_STD) + CLIP_BLACK


def clip_config(config: ConfigDict) -> CLIPConfig:
    """Reads the sizes of the towers from ``embed_dim``, ``image`` and ``text`` of a section."""
    if "patch_size" in config.image:
        image = ViTConfig(**config.image)
    else:
        image = ResNetConfig(**(dict(config.image) | {"layers": tuple(config.image.layers)}))
    return CLIPConfig(
        embed_dim=config.embed_dim,
        image=image,
        text=TextConfig(**config.text),
    )


def create(config: ConfigDict, rngs: nnx.Rngs) -> ClipSystem:
    """Builds the system from a run's config (sections ``system.clip`` and ``dtype``)."""
    return ClipSystem(
        ClipSystemConfig(clip=clip_config(config.system.clip)),
        rngs=rngs,
        dtype=jnp.dtype(config.dtype),
    )
