"""Parity of CLIP's towers."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.convert.clip import CLIP_MAP, clip_config
from ovseg_jax.networks.clip import TextTransformer, VisionTransformer
from ovseg_jax.params import merge_model
from ovseg_jax.parity.model import gradients, load_model, names, tensors, to_nchw, to_nhwc
from ovseg_jax.parity.runner import Arrays, Quantity, gradient, loss, output
from ovseg_jax.systems.clip import ClipSystem, ClipSystemConfig


def compare_vit(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Tokens, features and logits of both towers; loss and gradients where recorded."""
    theirs = tensors(arrays)
    sizes = clip_config(
        theirs,
        image=dict(heads=meta["vision_heads"]),
        text=dict(heads=meta["text_heads"]),
    )
    graphdef, params = load_model(
        lambda rngs: ClipSystem(ClipSystemConfig(clip=sizes), rngs=rngs), CLIP_MAP, theirs
    )
    image, tokens = to_nhwc(arrays["in/image"]), jnp.asarray(arrays["in/text"], jnp.int32)

    @jax.jit
    def forward(params):
        clip = merge_model(graphdef, params).clip
        logits = clip(image, tokens)
        return {
            **_image_tower(clip.image, image),
            **_text_tower(clip.text, tokens),
            "logits_per_image": logits,
            "logits_per_text": logits.T,
        }

    quantities = {f"out/{name}": output(value) for name, value in forward(params).items()}
    if "out/train/loss" not in arrays:
        return quantities
    pairs = arrays["out/train/logits_per_image"].shape[0]
    batch = {"image": image[:pairs], "text": tokens[:pairs]}

    def loss_of(system):
        return system.loss(batch, None, None)[0]

    value, grads = gradients(graphdef, params, CLIP_MAP, names(arrays, "grad/"), loss_of)
    return (
        quantities
        | {f"grad/{name}": gradient(grad) for name, grad in grads.items()}
        | {
            "out/train/loss": loss(value),
            "out/train/logits_per_image": output(
                merge_model(graphdef, params).clip(batch["image"], batch["text"])
            ),
        }
    )


def _image_tower(vit: VisionTransformer, image: jax.Array) -> dict[str, np.ndarray]:
    tokens = vit.embed(image)
    first = vit.blocks[0]
    normed = first.norm1(tokens)
    attended = first.attention(normed)
    results = {
        "visual/patch_conv": to_nchw(vit.patch_embed(image)),
        "visual/ln_pre": tokens,
        "visual/block0_ln_1": normed,
        "visual/block0_attn": attended,
        "visual/block0_mlp": first.mlp(first.norm2(tokens + attended)),
    }
    for i, block in enumerate(vit.blocks):
        tokens = block(tokens)
        results[f"visual/block{i}"] = tokens
    return results | {
        "visual/ln_post_cls": vit.norm_post(tokens[:, 0]),
        "image_features": vit(image),
    }


def _text_tower(text: TextTransformer, tokens: jax.Array) -> dict[str, np.ndarray]:
    x = text.embed(tokens)
    results = {}
    for i, block in enumerate(text.blocks):
        x = block(x, causal=True)
        results[f"text/block{i}"] = x
    return results | {"text/ln_final": text.norm(x), "text_features": text(tokens)}
