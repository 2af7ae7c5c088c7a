"""Dense prediction with a frozen CLIP, without any training: one system, many methods.

The methods differ in the last block(s) of the image tower, see `ovseg_jax.networks.training_free`;
how windows, synonyms and background are treated is part of the protocol (`inference.Protocol`).
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError, nearest
from ovseg_jax.networks.clip import CLIP, CLIPConfig, encode_prompts, normalize
from ovseg_jax.networks.clip_resnet import ResNetConfig
from ovseg_jax.networks.training_free import (
    METHODS,
    dense_features,
    maskclip_original,
    method_options,
    refine,
)
from ovseg_jax.networks.vit import DinoConfig
from ovseg_jax.ops.resize import resize
from ovseg_jax.pictures import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD
from ovseg_jax.systems.clip import clip_config
from ovseg_jax.systems.system import System, read_settings, spread
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import ParamGroup

_REFINEMENTS = frozenset(
    name
    for name, parameter in inspect.signature(refine).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY
)


@dataclasses.dataclass(frozen=True)
class TrainingFreeConfig:
    """The networks, and what is done with them."""

    clip: CLIPConfig
    proxy: DinoConfig | None = None  # the other network of ProxyCLIP
    method: str = "clip"  # one of `METHODS`
    options: tuple[tuple[str, float | int | bool | None], ...] = ()  # of the method, by name
    logit_scale: float = 40.0  # on the cosines; a constant, never CLIP's own
    window_multiple: int = 1  # windows are padded with zeros around them to a multiple of this

    def __post_init__(self):
        if self.method not in METHODS:
            raise UserError(
                f"unknown method {self.method!r} of training_free; "
                f"{nearest(str(self.method), METHODS)}"
            )
        if (self.method == "proxyclip") != (self.proxy is not None):
            verb = "needs" if self.proxy is None else "has no use for"
            raise UserError(
                f"method {self.method!r} {verb} config.system.proxy, the sizes of another network; "
                "it goes with 'proxyclip' and no other method."
            )
        if isinstance(self.clip.image, ResNetConfig) and self.method != "maskclip_original":
            raise UserError(
                f"method {self.method!r} changes a transformer but config.system.clip.image is a "
                "ResNet; choose a ViT, or the method 'maskclip_original'."
            )
        known = method_options(self.method)
        if unknown := sorted({name for name, _ in self.options} - known):
            raise UserError(
                f"method {self.method!r} has no option {unknown[0]!r}; it has "
                f"{', '.join(sorted(known))}."
            )


class TrainingFree(System):
    """The system; parameter paths `clip/…` and, for ProxyCLIP, `proxy/…`."""

    def __init__(self, config: TrainingFreeConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        self.config = config
        self.clip = CLIP(config.clip, rngs=rngs, dtype=dtype)
        self.proxy = config.proxy.build(rngs=rngs, dtype=dtype) if config.proxy else None

    def encode_vocabulary(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [n, P, L] -> unit-length embeddings of the queries, float32 [n, E]."""
        return encode_prompts(self.clip.text, tokens)

    def loss(self, batch, vocabulary, rngs):
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError(
            "the system 'training_free' has nothing to train; evaluate it with --mode eval."
        )

    def features(self, image: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Features [B, h, w, E] of normalised images, and the keys of `refine`, if any."""
        config, tower = self.config, self.clip.image
        options = {name: value for name, value in config.options if name not in _REFINEMENTS}
        if config.method == "maskclip_original":
            return maskclip_original(tower, image, **options)
        if config.method == "proxyclip":
            options["proxy"] = self.proxy_features(image)
        return dense_features(tower, image, config.method, **options), None

    def proxy_features(self, image: jax.Array) -> jax.Array:
        """Features of the other network, [B, I, J, C], of images with CLIP's statistics."""
        pixels = image * jnp.asarray(CLIP_STD) + jnp.asarray(CLIP_MEAN)
        return self.proxy((pixels - jnp.asarray(IMAGENET_MEAN)) / jnp.asarray(IMAGENET_STD))

    @property
    def independent_names(self) -> bool:
        """Refinements compare the names with each other."""
        return not any(value for name, value in self.config.options if name in _REFINEMENTS)

    @property
    def patch_size(self) -> int:
        """Of the transformer, or the stride of the ResNet."""
        return self.config.clip.image.patch_size

    def encode(
        self, image: jax.Array, sizes: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Unit-length features [B, h, w, E] of normalised pictures, and the keys of `refine`."""
        features, keys = self.features(pad_around(image, self.config.window_multiple))
        return normalize(features), keys

    def logits(
        self, features: tuple[jax.Array, jax.Array | None], vocabulary: Vocabulary
    ) -> jax.Array:
        """Scores of every patch and name, float32 [B, h, w, N]."""
        features, keys = features
        cosines = features @ vocabulary.embeddings.T
        refinements = {name: value for name, value in self.config.options if name in _REFINEMENTS}
        real = vocabulary.class_ids >= 0
        return self.config.logit_scale * refine(cosines, keys, real, **refinements)

    def decode(
        self,
        features: tuple[jax.Array, jax.Array | None],
        vocabulary: Vocabulary,
        shape: tuple[int, int],
        sizes: jax.Array | None = None,
    ) -> jax.Array:
        """Bilinear from the patches, arguments and result as `System.decode`.

        Raises:
          UserError: with `sizes`, if windows are padded to a multiple.
        """
        logits = self.logits(features, vocabulary)
        if sizes is not None and self.config.window_multiple > 1:
            raise UserError(
                "config.system.window_multiple pads windows, so that their patches do not share a "
                "program; set config.eval.patch to 1."
            )
        if sizes is not None:
            return spread(logits, shape, sizes)
        margins = [_margins(n, self.config.window_multiple) for n in shape]
        (y, _), (x, _) = margins
        padded = tuple(n + sum(margin) for n, margin in zip(shape, margins, strict=True))
        return resize(logits, padded)[:, y : y + shape[0], x : x + shape[1]]

    def dense_features(
        self, features: tuple[jax.Array, jax.Array | None], shape: tuple[int, int]
    ) -> jax.Array:
        """Features of the patches, margins included, [B, h, w, E]."""
        return features[0]

    def param_groups(self) -> tuple[ParamGroup, ...]:
        """Nothing trains."""
        return ()


def pad_around(image: jax.Array, multiple: int) -> jax.Array:
    """Pads images [B, H, W, 3] on all sides with zeros to a multiple."""
    return jnp.pad(image, ((0, 0), *(_margins(n, multiple) for n in image.shape[1:3]), (0, 0)))


def _margins(size: int, multiple: int) -> tuple[int, int]:
    """Padding before and after an axis; the smaller half comes first."""
    total = -size % multiple
    return total // 2, total - total // 2


def create(config: ConfigDict, rngs: nnx.Rngs) -> TrainingFree:
    """Builds the system from a run's config.

    Args:
      config: `system` holds `name`, `clip` (`embed_dim`, `image`, `text`) and any other field of
        `TrainingFreeConfig`, `proxy` as the fields of `DinoConfig` (empty = none); `dtype` is the
        compute type.
      rngs: for the initial parameters.

    Raises:
      UserError: an unknown field, method or option.
    """
    fields = read_settings(config, TrainingFreeConfig)
    proxy = fields.pop("proxy", None)
    options = tuple(sorted(dict(fields.pop("options", {})).items()))
    return TrainingFree(
        TrainingFreeConfig(
            clip=clip_config(config.system.clip),
            proxy=DinoConfig(**proxy) if proxy else None,
            options=options,
            **fields,
        ),
        rngs=rngs,
        dtype=jnp.dtype(config.dtype),
    )
