"""Name map and sizes of CLIP checkpoints in the names of Hugging Face's transformers."""

from collections.abc import Mapping

from ovseg_jax.convert.name_map import (
    CONV,
    TRANSPOSE,
    NameMap,
    Rule,
    affine,
    linear,
    rule,
)
from ovseg_jax.errors import UserError
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, ViTConfig

_ACTIVATIONS = ("quick_gelu", "gelu")


def _blocks(source: str, target: str) -> tuple[Rule, ...]:
    theirs, ours = f"{source}.encoder.layers.{{i}}", f"{target}/blocks/{{i}}"
    return (
        *affine(f"{theirs}.layer_norm1", f"{ours}/norm1"),
        *linear(f"{theirs}.self_attn.q_proj", f"{ours}/attention/query"),
        *linear(f"{theirs}.self_attn.k_proj", f"{ours}/attention/key"),
        *linear(f"{theirs}.self_attn.v_proj", f"{ours}/attention/value"),
        *linear(f"{theirs}.self_attn.out_proj", f"{ours}/attention/out"),
        *affine(f"{theirs}.layer_norm2", f"{ours}/norm2"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    )


CLIP_HF_MAP = NameMap(
    source="CLIP (Hugging Face)",
    rules=(
        rule("vision_model.embeddings.class_embedding", "clip/image/class_token"),
        rule(
            "vision_model.embeddings.patch_embedding.weight", "clip/image/patch_embed/kernel", CONV
        ),
        rule("vision_model.embeddings.position_embedding.weight", "clip/image/positions"),
        *affine("vision_model.pre_layrnorm", "clip/image/norm_pre"),  # misspelt in the files
        *_blocks("vision_model", "clip/image"),
        *affine("vision_model.post_layernorm", "clip/image/norm_post"),
        rule("visual_projection.weight", "clip/image/projection", TRANSPOSE),
        rule("text_model.embeddings.token_embedding.weight", "clip/text/token_embedding"),
        rule("text_model.embeddings.position_embedding.weight", "clip/text/positions"),
        *_blocks("text_model", "clip/text"),
        *affine("text_model.final_layer_norm", "clip/text/norm"),
        rule("text_projection.weight", "clip/text/projection", TRANSPOSE),
        rule("logit_scale", "clip/logit_scale"),
    ),
    dropped=("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids"),
)


def _activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise UserError(
            f"the activation {name!r} of config.json is unknown here; supported are "
            f"{', '.join(_ACTIVATIONS)}."
        )
    return name


def _blocks_config(tower: Mapping) -> dict:
    """What both towers' sizes share."""
    return dict(
        width=tower["hidden_size"],
        layers=tower["num_hidden_layers"],
        heads=tower["num_attention_heads"],
        activation=_activation(tower.get("hidden_act", "quick_gelu")),
    )


def clip_hf_config(description: Mapping) -> CLIPConfig:
    """Sizes of a CLIP from the content of its config.json.

    Raises:
      UserError: an activation or an epsilon that this implementation lacks, or a missing entry.
    """
    vision, text = (dict(description.get(f"{part}_config", {})) for part in ("vision", "text"))
    for part in (vision, text):
        if part.get("layer_norm_eps", 1e-5) != 1e-5:
            raise UserError(
                f"layer_norm_eps {part['layer_norm_eps']} of config.json is not CLIP's 1e-05; "
                "convert a CLIP checkpoint."
            )
    try:
        return CLIPConfig(
            embed_dim=description["projection_dim"],
            image=ViTConfig(
                image_size=vision["image_size"],
                patch_size=vision["patch_size"],
                **_blocks_config(vision),
            ),
            text=TextConfig(
                context=text["max_position_embeddings"],
                vocab_size=text["vocab_size"],
                **_blocks_config(text),
            ),
        )
    except KeyError as error:
        raise UserError(
            f"config.json lacks {error.args[0]!r}; take the whole file of the checkpoint's folder."
        ) from error
