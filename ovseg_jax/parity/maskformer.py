"""Parity of MaskFormer: its networks, semantic inference, learning rates and optimizers."""

import dataclasses
import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.convert.maskformer import (
    MASKFORMER_MAP,
    PIXEL_DECODER_RULES,
    PREDICTOR_RULES,
    maskformer_config,
    pixel_decoder_config,
    predictor_config,
)
from ovseg_jax.convert.name_map import NameMap
from ovseg_jax.convert.resnet import RESNET_RULES, resnet_config
from ovseg_jax.losses.matching import TermWeights
from ovseg_jax.losses.set_criterion import set_losses
from ovseg_jax.networks.detr import LayerConfig
from ovseg_jax.networks.layers import Linear
from ovseg_jax.networks.mask_scores import query_probabilities
from ovseg_jax.networks.maskformer import MaskFormer, Predictor, QueryOutputs
from ovseg_jax.networks.pixel_decoder import PixelDecoder
from ovseg_jax.networks.positions import sine_positions
from ovseg_jax.ops.images import normalize
from ovseg_jax.ops.semantic_maps import original_semantic_map
from ovseg_jax.params import Flat, merge_model
from ovseg_jax.parity.maskformer_losses import load_targets
from ovseg_jax.parity.model import gradients, load_model, names, tensors, to_nchw, to_nhwc
from ovseg_jax.parity.runner import Arrays, Quantity, gradient, loss, output
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import ParamGroup, split_trainable
from ovseg_jax.training.schedules import build_schedule

_STAGES = ("res2", "res3", "res4", "res5")


def backbone_choices(meta: Mapping) -> dict:
    """What the tensors of a backbone do not tell; only DeepLab's builder reads the multi-grid."""
    grid = tuple(meta["multi_grid"]) if "deeplab" in meta["backbone"] else ()
    return dict(multi_grid=grid, stride_in_1x1=meta["stride_in_1x1"])


def layer_choices(meta: Mapping) -> dict:
    """What the tensors of a transformer do not tell."""
    return dict(heads=meta["nheads"], pre_norm=meta["pre_norm"], dropout=meta["dropout"])


def predictor_choices(meta: Mapping) -> dict:
    """What the tensors of a predictor do not tell."""
    return dict(reads_encoded=meta["in_feature"] == "transformer_encoder", **layer_choices(meta))


def _compare_part(
    arrays: Arrays,
    create: Callable[[nnx.Rngs], nnx.Module],
    name_map: NameMap,
    forward: Callable[[nnx.Module], tuple[jax.Array, dict[str, jax.Array]]],
    grad_scale: Callable[[str, Mapping], float | None] = lambda name, grads: None,
) -> dict[str, Quantity]:
    """Values and gradients of a part of the network.

    `forward` maps the part to its loss and to its results by name; `grad_scale` tells, by name and
    from all of them, the magnitude of gradients that are zero but for rounding.
    """
    graphdef, params = load_model(create, name_map, tensors(arrays))
    results = jax.jit(lambda params: forward(merge_model(graphdef, params))[1])(params)
    value, grads = gradients(
        graphdef, params, name_map, names(arrays, "grad/"), lambda part: forward(part)[0]
    )
    return (
        {f"out/{name}": output(value) for name, value in results.items()}
        | {"out/loss": loss(value)}
        | {f"grad/{name}": gradient(grad, grad_scale(name, grads)) for name, grad in grads.items()}
    )


def compare_backbone(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """The stem, the stages, and the gradients of weights and picture."""
    sizes = resnet_config(tensors(arrays), **backbone_choices(meta))
    name_map = NameMap("ResNet", RESNET_RULES)
    image = to_nhwc(arrays["in/x"])

    def forward(backbone, image=image):
        maps = map(to_nchw, backbone.features(image))
        results = dict(zip(("stem", *_STAGES), maps, strict=True))
        terms = [(results[name] * arrays[f"in/cotangent_{name}"]).mean() for name in _STAGES]
        return sum(terms), results

    graphdef, params = load_model(lambda rngs: sizes.build(rngs=rngs), name_map, tensors(arrays))
    by_image = jax.jit(jax.grad(lambda x: forward(merge_model(graphdef, params), x)[0]))(image)
    return _compare_part(arrays, lambda rngs: sizes.build(rngs=rngs), name_map, forward) | {
        "grad_in/x": gradient(to_nchw(by_image))
    }


def compare_pixel_decoder(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Each block of the pyramid, what lies around the transformer, and all gradients."""
    maps = [to_nhwc(arrays[f"in/{stage}"]) for stage in _STAGES]
    sizes = pixel_decoder_config(tensors(arrays), "")
    layer = LayerConfig(hidden=meta["dim_feedforward"], **layer_choices(meta))

    def create(rngs):
        return PixelDecoder([x.shape[-1] for x in maps], sizes, layer, rngs=rngs)

    def forward(decoder):
        features, trace = decoder(maps)
        results = {"mask_features": features.masks}
        if features.encoded is not None:
            positions = trace.pop("positions")
            results |= {
                "transformer_encoder_features": features.encoded,
                "input_proj": trace.pop("projected"),
                "pos": jnp.broadcast_to(positions, (len(maps[0]), *positions.shape)),
            }
        for name, value in trace.items():
            kind, number = name.split("_")
            theirs = {"adapter": "adapter", "smoother": "layer"}[kind]
            results[f"{theirs}_{int(number) + 1}"] = value
        results = {name: to_nchw(value) for name, value in results.items()}
        terms = [
            (results[name] * arrays[f"in/cotangent_{name}"]).mean()
            for name in ("mask_features", "transformer_encoder_features")
            if name in results
        ]
        return sum(terms), results

    return _compare_part(arrays, create, NameMap("pixel decoder", PIXEL_DECODER_RULES), forward)


def first_layer_scale(name: str, grads: Mapping, meta: Mapping) -> float | None:
    """Queries begin with zeros, so the first layer's values are alike: no gradient but rounding."""
    if meta["pre_norm"] or not name.endswith("decoder.layers.0.self_attn.in_proj_weight"):
        return None
    return float(np.abs(grads[f"{name.removesuffix('weight')}bias"]).max())


def compare_predictor(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Queries after each layer, what they say, and all gradients."""
    theirs = tensors(arrays)
    x, pixels = to_nhwc(arrays["in/x"]), to_nhwc(arrays["in/mask_features"])
    sizes = predictor_config(theirs, "", **predictor_choices(meta))

    def create(rngs):
        classes, dim = theirs["class_embed.weight"].shape
        head = Linear(dim, classes, rngs=rngs)
        return Predictor(x.shape[-1], pixels.shape[-1], sizes, head, rngs=rngs)

    def forward(predictor):
        states, trace = predictor.states(x)
        read = states if meta["deep_supervision"] else states[-1:]
        normed = predictor.decoder.norm(jnp.stack(read))
        positions = trace["positions"]
        results = {
            "pos": to_nchw(jnp.broadcast_to(positions, (len(x), *positions.shape))),
            "memory": to_nchw(trace["memory"]),
            "hs": normed,
            "mask_embed": predictor.mask_head(normed),
        }
        results |= {f"dec_layer_{i}": state for i, state in enumerate(states)}
        outputs = predictor.read(normed, pixels)
        terms = (outputs.classes * arrays["in/cotangent_logits"]).mean((1, 2, 3)) + (
            outputs.masks * arrays["in/cotangent_masks"]
        ).mean((1, 2, 3, 4))  # [L]
        return terms[-1] + 0.5 * terms[:-1].sum(), results | _named(outputs)

    name_map = NameMap("predictor", PREDICTOR_RULES)
    return _compare_part(
        arrays, create, name_map, forward, lambda *given: first_layer_scale(*given, meta)
    )


def _named(outputs: QueryOutputs) -> dict[str, jax.Array]:
    """What queries say, by the reference's names."""
    *auxiliary, last = zip(*outputs, strict=True)
    named = {"pred_logits": last[0], "pred_masks": last[1]}
    for i, (classes, masks) in enumerate(auxiliary):
        named |= {f"aux{i}_pred_logits": classes, f"aux{i}_pred_masks": masks}
    return named


def compare_positions(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Sine positions of several sizes."""
    return {
        f"out/pos_c{dim}_h{h}_w{w}": output(sine_positions((h, w), dim).transpose(2, 0, 1))
        for dim, h, w in meta["sizes"]
    }


def load_images(arrays: Arrays, meta: Mapping) -> tuple[jax.Array, np.ndarray]:
    """The pictures of a file, normalised and padded, float32 [B, H, W, 3]; and their sizes."""
    images = [
        normalize(arrays[f"in/image_{i}"].transpose(1, 2, 0), meta["pixel_mean"], meta["pixel_std"])
        for i in range(len(names(arrays, "in/image_")))
    ]
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    multiple = max(1, meta["size_divisibility"])  # detectron2: not above 0 = as it is
    canvas = -(-sizes.max(0) // multiple) * multiple
    padded = [
        jnp.pad(image, [*((0, full - n) for full, n in zip(canvas, size, strict=True)), (0, 0)])
        for image, size in zip(images, sizes, strict=True)
    ]
    return jnp.stack(padded), sizes


def load_maskformer(arrays: Arrays, meta: Mapping) -> tuple[nnx.GraphDef, Flat]:
    """The whole network of a file."""
    theirs = tensors(arrays)
    sizes = maskformer_config(theirs, backbone_choices(meta), predictor_choices(meta))

    def create(rngs):
        classes, dim = theirs["sem_seg_head.predictor.class_embed.weight"].shape
        return MaskFormer(sizes, Linear(dim, classes, rngs=rngs), rngs=rngs)

    return load_model(create, MASKFORMER_MAP, theirs)


def compare_full(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """From pictures to semantic maps in both orders of resizing."""
    image, sizes = load_images(arrays, meta)
    graphdef, params = load_maskformer(arrays, meta)
    original = np.stack([arrays[f"in/out_hw_{i}"] for i in range(len(sizes))]).astype(np.int32)

    @jax.jit
    def forward(params):
        model = merge_model(graphdef, params)
        maps = model.backbone(image)
        outputs = model.decode(maps, all_layers=meta["deep_supervision"])
        logits = outputs.classes[-1]
        scores = query_probabilities(logits, jnp.ones(logits.shape[-1] - 1, bool))
        return (
            maps[-1],
            outputs,
            {
                name: original_semantic_map(
                    scores,
                    outputs.masks[-1],
                    image.shape[1:3],
                    sizes,
                    original,
                    tuple(original.max(0).tolist()),
                    masks_first=masks_first,
                )
                for name, masks_first in (("sem_seg", False), ("sem_seg_post_before", True))
            },
        )

    coarsest, outputs, maps = forward(params)
    results = {"padded_input": to_nchw(image), "res5": to_nchw(coarsest)} | {
        name: value for name, value in _named(outputs).items() if f"out/{name}" in arrays
    }
    for i, (h, w) in enumerate(original.tolist()):
        results |= {f"{name}_{i}": to_nchw(value[:, :h, :w])[i] for name, value in maps.items()}
    quantities = {f"out/{name}": output(value) for name, value in results.items()}
    return quantities | _compare_losses(arrays, meta, graphdef, params, image)


def _compare_losses(
    arrays: Arrays, meta: Mapping, graphdef: nnx.GraphDef, params: Flat, image: jax.Array
) -> dict[str, Quantity]:
    """The weighted terms of every layer, gradients, and the norm of them all."""
    classes, masks = load_targets(arrays, len(image), image.shape[1:3])
    weights = TermWeights(1.0, meta["mask_weight"], meta["dice_weight"])
    trained, constants = split_trainable(params, (ParamGroup(r"^(?!backbone/.*/norm/)"),))

    @jax.jit
    def differentiate(trained):
        def total(trained):
            model = merge_model(graphdef, {**trained, **constants})
            outputs = model(image, all_layers=meta["deep_supervision"])
            options = dict(weights=weights, no_object_weight=meta["no_object_weight"])
            return set_losses(*outputs, classes, masks, **options)

        (_, terms), grads = jax.value_and_grad(total, has_aux=True)(trained)
        return terms, grads, optax.tree.norm(grads)

    terms, grads, norm = differentiate(trained)
    factors = dict(ce=weights.label, mask=weights.mask, dice=weights.dice)
    grads = MASKFORMER_MAP.outward(grads)
    quantities = {
        f"out/train_weighted_{name}": loss(factors[name.split("_")[1]] * value)
        for name, value in terms.items()
    }
    for name in names(arrays, "grad/"):
        quantities[f"grad/{name}"] = gradient(grads[name], first_layer_scale(name, grads, meta))
    return quantities | {"out/grad_global_norm": gradient(norm)}


_SCHEDULES = {"WarmupPolyLR": "poly", "WarmupCosineLR": "cosine"}


def compare_schedules(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Rates of two groups at some steps of several runs."""
    quantities = {}
    for number, run in enumerate(meta["runs"]):
        config = ConfigDict(
            dict(
                name=_SCHEDULES[run["name"]],
                power=0.9,
                min_lr=0.0,
                warmup=run["warmup_method"],
                warmup_steps=run["warmup_iters"],
                warmup_ratio=run["warmup_factor"],
            )
        )
        steps = jnp.asarray(run["iters"])
        columns = [steps] + [
            build_schedule(config, run["base_lr"] * factor, run["max_iter"])(steps)
            for factor in (1.0, 0.1)
        ]
        quantities |= _columns(f"out/lr_{number}", arrays, np.stack(columns, axis=1))
    return quantities


def _columns(key: str, arrays: Arrays, actual: np.ndarray) -> dict[str, Quantity]:
    """The columns of a table apart: their magnitudes differ."""
    expected = arrays[key]
    return {key: output(actual, limit=1e-6)} | {
        f"{key}[:, {i}]": dataclasses.replace(
            output(actual[:, i], limit=1e-6), expected=expected[:, i]
        )
        for i in range(1, expected.shape[1])
    }


def compare_optimizer(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Parameters after each of some steps with given gradients, at a constant rate."""
    # The recorded groups have absolute rates and decays.
    config = dict(
        name=meta["optimizer"].lower(), lr=1.0, weight_decay=1.0, clip_norm=meta["clip_norm"]
    )
    if meta["betas"]:
        config |= dict(zip(("b1", "b2"), meta["betas"], strict=True), eps=meta["eps"])
    else:
        config |= dict(momentum=meta["momentum"])
    groups = [
        ParamGroup(f"^{re.escape(name)}$", group["lr"], group["weight_decay"])
        for name, group in meta["groups"].items()
    ]
    params, frozen = split_trainable(jax.tree.map(jnp.asarray, tensors(arrays)), groups)
    schedule = ConfigDict(dict(name="constant", warmup_steps=0, warmup_ratio=1.0))
    optimizer = build_optimizer(ConfigDict(config), schedule, meta["steps"], groups, params)

    @jax.jit
    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, optax.tree.norm(grads)

    quantities, norms, state = {}, [], optimizer.init(params)
    for step in range(meta["steps"]):
        grads = tensors(arrays, f"in/grad_step{step}/")
        params, state, norm = update(params, state, grads)
        norms.append(norm)
        for name, value in {**params, **frozen}.items():
            # Steps are far smaller than parameters, so the usual bound would see none of them.
            quantities[f"out/step{step}/{name}"] = output(value, limit=1e-6)
    return quantities | {"out/grad_norms_before_clipping": output(np.stack(norms))}
