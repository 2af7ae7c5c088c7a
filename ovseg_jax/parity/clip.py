"""Parity of CLIP's towers."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ovseg_jax.convert.clip import CLIP_MAP, CLIP_RESNET_MAP, clip_config
from ovseg_jax.convert.clip_hf import CLIP_HF_MAP
from ovseg_jax.convert.name_map import NameMap
from ovseg_jax.networks.clip import CLIPConfig, TextTransformer, VisionTransformer
from ovseg_jax.networks.clip_resnet import ModifiedResNet
from ovseg_jax.ops.images import normalize
from ovseg_jax.params import merge_model, model_state
from ovseg_jax.parity.model import gradients, load_model, names, tensors, to_nchw, to_nhwc
from ovseg_jax.parity.runner import Arrays, Quantity, gradient, loss, output
from ovseg_jax.pictures import CLIP_MEAN, CLIP_STD, resize_and_crop
from ovseg_jax.systems.clip import ClipSystem, ClipSystemConfig


def compare_vit(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Tokens, features and logits of both towers; loss and gradients where recorded."""
    quantities, _ = _compare(arrays, meta, CLIP_MAP, _image_tower)
    return quantities


def compare_resnet(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """As `compare_vit`; training takes the statistics of the batch and updates running ones."""
    quantities, system = _compare(arrays, meta, CLIP_RESNET_MAP, _convolutional_tower)
    system.clip.encode_image(to_nhwc(arrays["in/image"]), train=True)
    buffers = CLIP_RESNET_MAP.outward(model_state(system))
    prefix = "out/train/buffer/"
    return quantities | {prefix + name: output(buffers[name]) for name in names(arrays, prefix)}


def compare_archive(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Features and logits from the tensors of an archive, half and single precision mixed."""
    theirs = tensors(arrays)
    name_map = CLIP_MAP if meta["variant"] == "vit" else CLIP_RESNET_MAP
    found = _features(arrays, clip_config(theirs), name_map, theirs)
    return {f"out/{name}": output(value) for name, value in found.items()}


def compare_layouts(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """One model in the names of OpenAI and of Hugging Face, and with the exact GELU."""
    openai, hugging = tensors(arrays, "openai/"), tensors(arrays, "hf/")
    heads = {"image": meta["vision_heads"], "text": meta["text_heads"]}

    def sizes(activation):
        towers = {tower: dict(heads=count, activation=activation) for tower, count in heads.items()}
        return clip_config(openai, **towers)

    found = _features(arrays, sizes("quick_gelu"), CLIP_MAP, openai)
    same = _features(arrays, sizes("quick_gelu"), CLIP_HF_MAP, hugging)
    gelu = _features(arrays, sizes("gelu"), CLIP_MAP, openai)
    del gelu["logits_per_image"]
    return (
        {f"out/{name}": output(value) for name, value in found.items()}
        | {f"hf/{name}": (arrays[f"out/{name}"], value, "float") for name, value in same.items()}
        | {f"out/gelu_{name}": output(value) for name, value in gelu.items()}
    )


def compare_preprocess(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Pictures of several modes, resized, cropped and normalised."""

    def pixels(number, size):
        picture = Image.fromarray(arrays[f"in/image{number}"])
        return to_nchw(normalize(resize_and_crop(picture, size)[None], CLIP_MEAN, CLIP_STD))[0]

    return {
        f"out/pixels{number}": output(pixels(number, case["n_px"]))
        for number, case in enumerate(meta["cases"])
    }


def _features(
    arrays: Arrays, sizes: CLIPConfig, name_map: NameMap, theirs: Mapping[str, np.ndarray]
) -> dict[str, jax.Array]:
    graphdef, params = load_model(
        lambda rngs: ClipSystem(ClipSystemConfig(clip=sizes), rngs=rngs), name_map, theirs
    )
    clip = merge_model(graphdef, params).clip
    image, tokens = to_nhwc(arrays["in/image"]), jnp.asarray(arrays["in/text"], jnp.int32)
    return {
        "image_features": clip.encode_image(image),
        "text_features": clip.encode_text(tokens),
        "logits_per_image": clip(image, tokens),
    }


def _compare(
    arrays: Arrays, meta: Mapping, name_map: NameMap, image_tower: Callable
) -> tuple[dict[str, Quantity], ClipSystem]:
    theirs = tensors(arrays)
    sizes = clip_config(
        theirs,
        image=dict(heads=meta["vision_heads"]),
        text=dict(heads=meta["text_heads"]),
    )
    graphdef, params = load_model(
        lambda rngs: ClipSystem(ClipSystemConfig(clip=sizes), rngs=rngs), name_map, theirs
    )
    system = merge_model(graphdef, params)
    image, tokens = to_nhwc(arrays["in/image"]), jnp.asarray(arrays["in/text"], jnp.int32)

    @jax.jit
    def forward(params):
        clip = merge_model(graphdef, params).clip
        logits = clip(image, tokens)
        return {
            **image_tower(clip.image, image),
            **_text_tower(clip.text, tokens),
            "logits_per_image": logits,
            "logits_per_text": logits.T,
        }

    quantities = {f"out/{name}": output(value) for name, value in forward(params).items()}
    if "out/train/loss" not in arrays:
        return quantities, system
    pairs = arrays["out/train/logits_per_image"].shape[0]
    batch = {"image": image[:pairs], "text": tokens[:pairs]}

    def loss_of(system):
        return system.loss(batch, None, None)[0]

    value, grads = gradients(graphdef, params, name_map, names(arrays, "grad/"), loss_of)
    logits = merge_model(graphdef, params).clip(batch["image"], batch["text"], train=True)
    quantities |= {f"grad/{name}": gradient(grad) for name, grad in grads.items()}
    quantities |= {"out/train/loss": loss(value), "out/train/logits_per_image": output(logits)}
    return quantities, system


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


def _convolutional_tower(resnet: ModifiedResNet, image: jax.Array) -> dict[str, np.ndarray]:
    stages = ("stem", "layer1", "layer2", "layer3", "layer4")
    maps = resnet.features(image)
    results = {f"visual/{name}": to_nchw(x) for name, x in zip(stages, maps, strict=True)}
    features = resnet(image)
    return results | {"visual/attnpool": features, "image_features": features}


def _text_tower(text: TextTransformer, tokens: jax.Array) -> dict[str, np.ndarray]:
    x = text.embed(tokens)
    results = {}
    for i, block in enumerate(text.blocks):
        x = block(x, causal=True)
        results[f"text/block{i}"] = x
    return results | {"text/ln_final": text.norm(x), "text_features": text(tokens)}
