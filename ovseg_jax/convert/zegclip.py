"""Name map of ZegCLIP checkpoints (mmsegmentation's names)."""

from ovseg_jax.convert.clip import TEXT_RULES, VIT_RULES
from ovseg_jax.convert.name_map import (
    SQUEEZE,
    NameMap,
    affine,
    fused_attention,
    linear,
    prefixed,
    rule,
)

_LAYER, _OURS = "decode_head.decoder_1.layers.{i}", "head/layers/{i}"

ZEGCLIP_MAP = NameMap(
    source="ZegCLIP",
    rules=(
        rule("backbone.prompt_embeddings", "prompts/embeddings", SQUEEZE),
        rule("backbone.deep_prompt_embeddings", "prompts/deep_embeddings"),
        *linear("backbone.prompt_proj", "prompts/projection"),
        *affine("backbone.prompt_norm", "prompts/norm"),
        *prefixed(VIT_RULES, "backbone.", "clip/image/"),
        *linear("decode_head.q_proj", "head/query_projection"),
        *fused_attention(f"{_LAYER}.self_attn", f"{_OURS}/self_attention"),
        *linear(f"{_LAYER}.multihead_attn.q", f"{_OURS}/attention/query"),
        *linear(f"{_LAYER}.multihead_attn.k", f"{_OURS}/attention/key"),
        *linear(f"{_LAYER}.multihead_attn.v", f"{_OURS}/attention/value"),
        *linear(f"{_LAYER}.multihead_attn.proj", f"{_OURS}/attention/out"),
        *linear(f"{_LAYER}.linear1", f"{_OURS}/mlp/fc1"),
        *linear(f"{_LAYER}.linear2", f"{_OURS}/mlp/fc2"),
        *affine(f"{_LAYER}.norm1", f"{_OURS}/norm1"),
        *affine(f"{_LAYER}.norm2", f"{_OURS}/norm2"),
        *affine(f"{_LAYER}.norm3", f"{_OURS}/norm3"),
        *prefixed(TEXT_RULES, "text_encoder.", "clip/text/"),
    ),
    # A buffer of the loss that nothing reads; its length differs between runs.
    dropped=("decode_head.loss_decode.criterion.empty_weight",),
    absent=("clip/logit_scale",),
)
