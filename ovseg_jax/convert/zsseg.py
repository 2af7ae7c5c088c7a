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


def segmenter_map(own_prompts: bool = False, clip: NameMap = CLIP_MAP) -> NameMap:
    """The map of the segmenter.

    Args:
      own_prompts: whether regions have an adapter of their own. Then its prompt is the only learned
        one; its CLIP is not in the table, see `without_second_clip`.
      clip: map of the CLIP inside.
    """
    regions = (
        rule(f"{REGION_ADAPTER}non_object_embedding", "region_no_object"),
        rule(f"{REGION_ADAPTER}prompt_learner.prefix_prompt", "prompt/prefix"),
        rule(f"{REGION_ADAPTER}prompt_learner.suffix_prompt", "prompt/suffix"),
    )
    return NameMap(
        "zsseg",
        (
            *prefixed(MASKFORMER_RULES, target="maskformer/"),
            *(regions if own_prompts else ()),
            *adapter_rules(clip=clip),
        ),
        (*DROPPED, *adapter_dropped(clip=clip), *adapter_dropped(REGION_ADAPTER, clip)),
    )


def without_second_clip(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes away the CLIP of the regions' adapter, a copy of the queries'.

    Raises:
      UserError: it is another one.
    """
    copies = {
        name: name.replace(REGION_ADAPTER, QUERY_ADAPTER, 1)
        for name in tensors
        if name.startswith(f"{REGION_ADAPTER}clip_model.")
    }
    for name, original in copies.items():
        if original not in tensors or not np.array_equal(tensors[name], tensors[original]):
            raise UserError(
                f"{name} differs from {original}, but queries and regions share one CLIP here; "
                "the checkpoint was not trained with a frozen CLIP."
            )
    return {name: array for name, array in tensors.items() if name not in copies}
