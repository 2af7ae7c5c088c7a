"""Rows for zsseg's checkpoints: its CLIP adapters, which hold a CLIP, prompts and no object.

The segmenter's checkpoints have the names of MaskFormer besides, and a second adapter under
``_region_clip_adapter.`` where regions have prompts of their own.
"""

from collections.abc import Mapping

import numpy as np

from ovseg_jax.convert.clip import CLIP_MAP
from ovseg_jax.convert.maskformer import DROPPED, MASKFORMER_RULES
from ovseg_jax.convert.name_map import NameMap, Rule, prefixed, rule
from ovseg_jax.errors import UserError

QUERY_ADAPTER = "clip_adapter."
REGION_ADAPTER = "_region_clip_adapter."

_PROMPT_RULES = (
    rule("prompt_learner.prefix_prompt", "prompt/prefix"),
    rule("prompt_learner.suffix_prompt", "prompt/suffix"),
)
SIGNALS = ("start", "dot", "end", "pad")  # copies of rows of the token embedding


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
        *_PROMPT_RULES,
        *prefixed(clip.rules, "clip_model."),
    )
    return prefixed(rows, source, target)


def adapter_dropped(source: str = QUERY_ADAPTER, clip: NameMap = CLIP_MAP) -> tuple[str, ...]:
    """Patterns of an adapter's tensors that are not needed, arguments as `adapter_rules`.

    They are statistics of pixels, which a model folder has elsewhere, and copies of four rows of
    the token embedding.
    """
    signals = (f"prompt_learner.{name}_signal" for name in SIGNALS)
    inside = (f"clip_model.{name}" for name in clip.dropped)
    return tuple(source + name for name in ("pixel_mean", "pixel_std", *signals, *inside))


def prompt_map(clip: NameMap = CLIP_MAP) -> NameMap:
    """The map of prompt learning, around one kind of CLIP."""
    return NameMap(
        "zsseg's prompt learning", adapter_rules(clip=clip), dropped=adapter_dropped(clip=clip)
    )


PROMPT_MAP = prompt_map()


def segmenter_map(own_prompts: bool = False, clip: NameMap = CLIP_MAP) -> NameMap:
    """The map of the segmenter, and of its baseline without proposals.

    Args:
      own_prompts: whether regions have an adapter of their own. Then its prompt is the only learned
        one, and its CLIP is dropped, see `check_second_clip`.
      clip: map of the CLIP inside.
    """
    rules = (
        *prefixed(MASKFORMER_RULES, target="maskformer/"),
        rule(f"{QUERY_ADAPTER}non_object_embedding", "no_object"),
        *prefixed(_PROMPT_RULES, REGION_ADAPTER if own_prompts else QUERY_ADAPTER),
        *prefixed(clip.rules, f"{QUERY_ADAPTER}clip_model."),
    )
    dropped = (*DROPPED, *adapter_dropped(clip=clip))
    if own_prompts:
        rules += (rule(f"{REGION_ADAPTER}non_object_embedding", "region_no_object"),)
        copies = (f"{REGION_ADAPTER}clip_model.{row.source}" for row in clip.rules)
        dropped += (*adapter_dropped(REGION_ADAPTER, clip), *copies)
    return NameMap("zsseg", rules, dropped)


def check_second_clip(tensors: Mapping[str, np.ndarray]) -> None:
    """Checks that the CLIP of the regions' adapter is a copy of the queries'.

    Raises:
      UserError: it is another one.
    """
    for name, array in tensors.items():
        if not name.startswith(f"{REGION_ADAPTER}clip_model."):
            continue
        original = name.replace(REGION_ADAPTER, QUERY_ADAPTER, 1)
        if original not in tensors or not np.array_equal(array, tensors[original]):
            raise UserError(
                f"{name} differs from {original}, but queries and regions share one CLIP here; "
                "the checkpoint was not trained with a frozen CLIP."
            )
