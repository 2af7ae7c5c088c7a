"""Rows for zsseg's checkpoints: its CLIP adapters, which hold a CLIP, prompts and no object.

The segmenter's checkpoints have the names of MaskFormer besides, and a second adapter under
``_region_clip_adapter.`` where regions have prompts of their own.
"""

from ovseg_jax.convert.clip import CLIP_MAP
from ovseg_jax.convert.name_map import NameMap, Rule, prefixed, rule

QUERY_ADAPTER = "clip_adapter."
REGION_ADAPTER = "_region_clip_adapter."


def adapter_rules(
    source: str = QUERY_ADAPTER, target: str = "", clip: NameMap = CLIP_MAP
) -> tuple[Rule, ...]:
    """Rows of an adapter.

    Args:
      source: before the source's names.
      target: before our paths.
      clip: map of the CLIP inside, `CLIP_MAP` or `CLIP_RESNET_MAP`.
    """
    rows = (
        rule("non_object_embedding", "no_object"),
        rule("prompt_learner.prefix_prompt", "prompt/prefix"),
        rule("prompt_learner.suffix_prompt", "prompt/suffix"),
        *prefixed(clip.rules, "clip_model."),
    )
    return prefixed(rows, source, target)


def adapter_dropped(source: str = QUERY_ADAPTER, clip: NameMap = CLIP_MAP) -> tuple[str, ...]:
    """Patterns of an adapter's tensors that are not needed, arguments as `adapter_rules`.

    They are statistics of pixels, which a model folder has elsewhere, and copies of four rows of
    the token embedding.
    """
    signals = (f"prompt_learner.{name}_signal" for name in ("start", "dot", "end", "pad"))
    inside = (f"clip_model.{name}" for name in clip.dropped)
    return tuple(source + name for name in ("pixel_mean", "pixel_std", *signals, *inside))


PROMPT_MAP = NameMap(
    source="zsseg's prompt learning", rules=adapter_rules(), dropped=adapter_dropped()
)
