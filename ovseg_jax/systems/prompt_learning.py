"""Learning the words around names: CLIP classifies masked crops, and only the prompt trains.

The first stage of zsseg (Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation",
ECCV 2022, section 3.3), whose result the segmenter takes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.networks.clip import CLIPConfig, encode_prompts
from ovseg_jax.networks.mask_scores import cosine_logits
from ovseg_jax.networks.prompts import FULL_STOP, LearnedPrompt
from ovseg_jax.pictures import CLIP_MEAN
from ovseg_jax.systems.clip import ClipSystem, ClipSystemConfig, clip_config
from ovseg_jax.systems.system import read_settings
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.partition import ParamGroup

# The reference paints with CLIP's mean in the space where the mean is 0; its prompts expect that.
MEAN_FILL = tuple(value / 255 for value in CLIP_MEAN)


@dataclasses.dataclass(frozen=True)
class PromptLearningConfig:
    """Sizes and choices; the defaults are the published ones."""

    clip: CLIPConfig
    prefix: int = 16  # learned vectors before a name
    suffix: int = 0  # and behind it
    fill: tuple[float, float, float] = MEAN_FILL  # normalised colour outside of the mask
    full_stop: int = FULL_STOP  # token id

    def __post_init__(self):
        if not self.prefix + self.suffix:
            raise UserError(
                "prompt_learning has nothing to learn; set config.system.prefix or suffix."
            )


class PromptLearning(ClipSystem):
    """CLIP with a learned prompt; parameter paths `clip/…` and `prompt/…`."""

    def __init__(self, config: PromptLearningConfig, *, rngs: nnx.Rngs, dtype=jnp.float32):
        super().__init__(ClipSystemConfig(config.clip), rngs=rngs, dtype=dtype)
        width = config.clip.text.width
        self.prompt = LearnedPrompt(
            config.prefix, config.suffix, width, rngs=rngs, full_stop=config.full_stop
        )
        self.fill = config.fill

    @property
    def text_trains(self) -> bool:
        """The prompt does."""
        return True

    def encode_vocabulary(self, tokens: jax.Array) -> jax.Array:
        """Tokens int [n, P, L] of bare names -> unit-length embeddings float32 [n, E]."""
        return encode_prompts(lambda names: self.prompt.encode(self.clip.text, names), tokens)

    def paint(self, image: jax.Array, mask: jax.Array) -> jax.Array:
        """Fills normalised pictures [B, H, W, 3] outside of bool masks [B, H, W]."""
        return jnp.where(mask[..., None], image, jnp.asarray(self.fill))

    def region_logits(self, painted: jax.Array, names: jax.Array) -> jax.Array:
        """Logits float32 [B, N] of painted pictures [B, H, W, 3] and unit-length names [N, E]."""
        return cosine_logits(self.clip.encode_image(painted), names)

    def classify(self, batch: dict[str, jax.Array], vocabulary: Vocabulary) -> jax.Array:
        """Logits float32 [B, N] of a batch as `loss` takes it, by the embedded names."""
        painted = self.paint(batch["image"], batch["label"] == 1)
        logits = self.region_logits(painted, vocabulary.embeddings)
        return jnp.where(vocabulary.class_ids >= 0, logits, -jnp.inf)

    def loss(
        self, batch: dict[str, jax.Array], vocabulary: Vocabulary, rngs: nnx.Rngs | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean cross-entropy of regions and names.

        Regions of other classes, or of which cropping left no pixel, do not count. (For the latter
        the reference draws other examples; here the batch is so many smaller.)

        Args:
          batch: `image` float32 [B, H, W, 3], normalised; `label` int [B, H, W], 1 where the class
            is; `class_id` int [B].
          vocabulary: the classes that compete, with their tokens.
          rngs: unused; nothing is random.

        Returns:
          The loss and the scalar `accuracy`.
        """
        names = dataclasses.replace(
            vocabulary, embeddings=self.encode_vocabulary(vocabulary.tokens)
        )
        logits = self.classify(batch, names)
        same = batch["class_id"][:, None] == vocabulary.class_ids  # [B, N]
        row, competes = same.argmax(-1), same.any(-1) & (batch["label"] == 1).any((1, 2))
        costs = -jnp.take_along_axis(jax.nn.log_softmax(logits), row[:, None], axis=1)[:, 0]
        count = jnp.maximum(competes.sum(), 1)
        hits = competes & (logits.argmax(-1) == row)
        return jnp.where(competes, costs, 0.0).sum() / count, {"accuracy": hits.sum() / count}

    def param_groups(self) -> tuple[ParamGroup, ...]:
        """The prompt trains."""
        return (ParamGroup(r"^prompt/"),)


def create(config: ConfigDict, rngs: nnx.Rngs) -> PromptLearning:
    """Builds the system from a run's config.

    Args:
      config: `system` holds `name`, `clip` (`embed_dim`, `image`, `text`) and any other field of
        `PromptLearningConfig`; `dtype` is the compute type.
      rngs: for the initial parameters.
    """
    fields = read_settings(config, PromptLearningConfig)
    settings = PromptLearningConfig(clip=clip_config(config.system.clip), **fields)
    return PromptLearning(settings, rngs=rngs, dtype=jnp.dtype(config.dtype))
