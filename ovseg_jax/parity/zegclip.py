"""Parity of ZegCLIP: training, inference, prompts, text encoder, optimizer."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.convert.clip import text_config, vit_config
from ovseg_jax.convert.zegclip import ZEGCLIP_MAP
from ovseg_jax.inference import Model, Protocol, segment
from ovseg_jax.losses.masks import NO_CLASS
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, ViTConfig, normalize
from ovseg_jax.networks.zegclip import prompted_features
from ovseg_jax.ops.resize import resize
from ovseg_jax.ops.sliding import sliding_scores
from ovseg_jax.params import Flat, merge_model
from ovseg_jax.parity.model import gradients, load_model, names, tensors, to_nchw, to_nhwc
from ovseg_jax.parity.runner import (
    Arrays,
    Quantity,
    exact,
    gradient,
    label_map,
    loss,
    not_compared,
    output,
)
from ovseg_jax.systems.zegclip import IGNORE, ZegCLIP, ZegCLIPConfig
from ovseg_jax.text.vocabulary import Vocabulary
from ovseg_jax.training.optimizers import build_optimizer
from ovseg_jax.training.partition import split_trainable
from ovseg_jax.training.schedules import build_schedule

_LABEL_BLOCK = 128  # label shapes of `segment` are multiples of this

# Which of our parameters a part of the source's names must fill.
_PARTS = {
    "backbone.": ("clip/image/", "prompts/"),
    "decode_head.": ("head/",),
    "text_encoder.": ("clip/text/",),
}


def _config(theirs: Mapping[str, np.ndarray], meta: Mapping, **fields) -> ZegCLIPConfig:
    """Sizes from the tensors, heads and choices from the meta data; absent parts are tiny."""
    image, text = ViTConfig(16, 16, 8, 1, 1), TextConfig(2, 2, 8, 1, 1)
    if "backbone.conv1.weight" in theirs:
        image = vit_config(theirs, "backbone.", heads=meta["heads"])
        fields["prompt_tokens"] = theirs["backbone.prompt_embeddings"].shape[1]
    if "text_encoder.token_embedding.weight" in theirs:
        text = text_config(theirs, "text_encoder.", heads=meta.get("text_heads", 1))
    layers = {
        name.split(".")[3] for name in theirs if name.startswith("decode_head.decoder_1.layers.")
    }
    if layers:
        hidden, dim = theirs["decode_head.decoder_1.layers.0.linear1.weight"].shape
        fields |= dict(
            decoder_layers=len(layers),
            decoder_heads=meta["decoder_heads"],
            decoder_hidden=hidden,
            relationship_descriptor=theirs["decode_head.q_proj.weight"].shape[1] == 2 * dim,
        )
    else:
        fields |= dict(decoder_layers=1, decoder_heads=1, decoder_hidden=1)
    return ZegCLIPConfig(CLIPConfig(meta["out_dim"], image, text), dropout=0.0, **fields)


def _load(theirs: Mapping[str, np.ndarray], config: ZegCLIPConfig) -> tuple[nnx.GraphDef, Flat]:
    parts = [
        part
        for prefix, ours in _PARTS.items()
        if any(name.startswith(prefix) for name in theirs)
        for part in ours
    ]
    return load_model(lambda rngs: ZegCLIP(config, rngs=rngs), ZEGCLIP_MAP, theirs, parts)


def _setting(meta: Mapping) -> str:
    if meta["self_training"]:
        return "transductive"
    return "full" if len(meta["base_class"]) == meta["num_classes_all"] else "inductive"


def _system_config(theirs: Mapping[str, np.ndarray], meta: Mapping) -> ZegCLIPConfig:
    return _config(
        theirs,
        meta,
        setting=_setting(meta),
        prompt_depth=meta["total_d_layer"],
        mask_weight=meta["mask_weight"],
        dice_weight=meta["dice_weight"],
        calibration=meta.get("calibration", 0.1),
    )


def _vocabulary(arrays: Arrays, meta: Mapping, rows: list[int]) -> Vocabulary:
    return Vocabulary(
        embeddings=jnp.asarray(arrays["in/text_embeddings"][rows], jnp.float32),
        class_ids=jnp.asarray(rows, jnp.int32),
        seen=jnp.asarray(np.isin(rows, meta["base_class"])),
    )


def _training_vocabulary(arrays: Arrays, meta: Mapping) -> Vocabulary:
    everything = list(range(meta["num_classes_all"]))
    return _vocabulary(
        arrays, meta, meta["base_class"] if _setting(meta) == "inductive" else everything
    )


_TRACE = {"embedded": "ln_pre", "query_input": "q_proj_in", "query": "q_proj_out"}


def _trace(trace: Mapping[str, jax.Array], grid: tuple[int, int]) -> dict[str, jax.Array]:
    """Intermediate values under the reference's names and in its layout."""
    renamed = {}
    for name, value in trace.items():
        if name == "patches":
            name, value = "patch_embed", to_nchw(value.reshape(value.shape[0], *grid, -1))
        elif name == "cls":
            name = "cls_embed"
        name = name.replace("scores_", "dec_attn_").replace("queries_", "dec_q_")
        renamed[_TRACE.get(name, name)] = value
    return renamed


def _key_bias_scale(name: str, grads: Mapping[str, np.ndarray]) -> float | None:
    """A key's bias shifts all scores of a query alike, so below the last layer its gradient is 0.

    Its rounding noise is measured against the gradient of the key's weight.
    """
    if not name.endswith("multihead_attn.k.bias"):
        return None
    return float(np.abs(grads[name.removesuffix("bias") + "weight"]).max())


def compare_train(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """One training step: every intermediate value, labels, losses and gradients."""
    theirs = tensors(arrays)
    config = _system_config(theirs, meta)
    graphdef, params = _load(theirs, config)
    vocabulary = _training_vocabulary(arrays, meta)
    batch = {"image": to_nhwc(arrays["in/img"]), "label": jnp.asarray(arrays["in/label"])}

    @jax.jit
    def forward(params):
        system = merge_model(graphdef, params)
        masks, trace = system.masks(batch["image"], vocabulary.embeddings)
        labels = system.training_labels(batch["label"], masks, vocabulary)
        return masks, trace, labels, system.loss(batch, vocabulary, None)[1]

    masks, trace, labels, scalars = forward(params)
    results = _trace(trace, masks.shape[1:3])
    results["pred_masks"] = to_nchw(resize(masks, batch["label"].shape[1:]))
    quantities = {f"out/{name}": output(value) for name, value in results.items()}

    rows = (labels[..., None] == vocabulary.class_ids).argmax(-1)
    used = jnp.where(labels == NO_CLASS, IGNORE, rows)
    pseudo = config.setting == "transductive"
    quantities["out/label_used"] = label_map(used) if pseudo else exact(used)

    value, grads = gradients(
        graphdef,
        params,
        ZEGCLIP_MAP,
        names(arrays, "grad/"),
        lambda system: system.loss(batch, vocabulary, None)[0],
    )
    return (
        quantities
        | {
            "out/loss": loss(value),
            "out/decode_loss_mask": loss(scalars["loss_mask"]),
            "out/decode_loss_dice": loss(scalars["loss_dice"]),
            # Ties between classes may move single pixels.
            "out/decode_acc_seg": output(100.0 * scalars["pixel_accuracy"], limit=1e-3),
        }
        | {
            f"grad/{name}": gradient(grad, _key_bias_scale(name, grads))
            for name, grad in grads.items()
        }
    )


def compare_test(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """One window, a whole image and sliding windows, up to label maps at the original size."""
    theirs = tensors(arrays)
    model = Model(*_load(theirs, _system_config(theirs, meta)), {}, np.zeros(3), np.ones(3))
    vocabulary = _vocabulary(arrays, meta, list(range(meta["num_classes_all"])))
    quantities = {}
    if "in/crop" in arrays:
        quantities |= _whole(model, vocabulary, to_nhwc(arrays["in/crop"]), "crop", None)
    if "in/whole_img" in arrays:
        image = to_nhwc(arrays["in/whole_img"])
        quantities |= _whole(model, vocabulary, image, "whole", meta["ori_shape"])
    if "in/slide_img" in arrays:
        quantities |= _slide(model, vocabulary, to_nhwc(arrays["in/slide_img"]), meta)
    return quantities


def _whole(
    model: Model, vocabulary: Vocabulary, image: jax.Array, prefix: str, original_size
) -> dict[str, Quantity]:
    @jax.jit
    def forward(model):
        system = model.system()
        masks, trace = system.masks(image, vocabulary.embeddings)
        return trace, system.scores(masks, vocabulary), system.predict(image, vocabulary)

    trace, head_scores, scores = forward(model)
    grid = model.system().clip.image.grid(image)
    results = _trace(trace, grid) | {
        "head_scores": to_nchw(head_scores),
        "scores": to_nchw(scores),
    }
    if original_size:
        results["scores_rescaled"] = to_nchw(resize(scores, tuple(original_size)))
    return {f"out/{prefix}_{name}": output(value) for name, value in results.items()}


def _slide(
    model: Model, vocabulary: Vocabulary, image: jax.Array, meta: Mapping
) -> dict[str, Quantity]:
    crop, stride, (height, width) = meta["crop"], meta["stride"], meta["ori_shape"]

    @jax.jit
    def mean_scores(model):
        system = model.system()
        return sliding_scores(
            lambda window: system.predict(window, vocabulary),
            image,
            crop=(crop, crop),
            stride=(stride, stride),
        )

    def segmented(flip: bool):
        labels, scores = segment(
            model,
            vocabulary,
            image,
            np.asarray([image.shape[1:3]], np.int32),
            np.asarray([[height, width]], np.int32),
            protocol=Protocol(
                short_side=min(image.shape[1:3]), crop=crop, stride=stride, flip=flip
            ),
            label_shape=tuple(-(-n // _LABEL_BLOCK) * _LABEL_BLOCK for n in (height, width)),
            with_scores=True,
        )
        return labels[:, :height, :width], scores[:, :height, :width]

    labels, scores = segmented(flip=False)
    return {
        "out/slide_scores": output(to_nchw(mean_scores(model))),
        "out/slide_scores_rescaled": output(to_nchw(scores)),
        "out/slide_softmax": output(to_nchw(jax.nn.softmax(scores, axis=-1))),
        "out/slide_pred": label_map(labels),
        "out/aug_pred": label_map(segmented(flip=True)[0]),
    }


def compare_text_encoder(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Text features, unit-length embeddings, and embeddings averaged over prompts."""
    theirs = tensors(arrays)
    config = _config(theirs, {**meta, "text_heads": meta["heads"]})
    system = merge_model(*_load(theirs, config))
    raw = system.clip.encode_text(jnp.asarray(arrays["in/tokens"]))
    quantities = {"out/text_raw": output(raw), "out/text_embeddings": output(normalize(raw))}
    if "in/tokens_multi" in arrays:
        embeddings = system.encode_vocabulary(jnp.asarray(arrays["in/tokens_multi"]))
        quantities["out/text_embeddings_multi"] = output(embeddings)
    return quantities


def compare_vpt_depths(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """The image transformer with prompts of several depths."""
    quantities = {}
    for variant, settings in meta["variants"].items():
        theirs = tensors(arrays, f"{variant}/param/")
        config = _config(theirs, meta, prompt_depth=settings["total_d_layer"])
        graphdef, params = _load(theirs, config)
        image = to_nhwc(arrays[f"{variant}/in/img"])

        @jax.jit
        def forward(params, image, graphdef=graphdef):
            system = merge_model(graphdef, params)
            return prompted_features(system.clip.image, system.prompts, image)

        cls, patches, trace = forward(params, image)
        trace |= {"cls": cls, "patches": patches}
        grid = merge_model(graphdef, params).clip.image.grid(image)
        for name, value in _trace(trace, grid).items():
            quantities[f"{variant}/out/{name}"] = output(value)
    return quantities


def compare_optim(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Some optimizer steps of the real training, and the published schedules."""
    theirs = tensors(arrays)
    graphdef, params = _load(theirs, _system_config(theirs, meta))
    vocabulary = _training_vocabulary(arrays, meta)
    groups = merge_model(graphdef, params).param_groups()
    trained, frozen = split_trainable(params, groups)
    tensor_names = ZEGCLIP_MAP.outward(trained)
    lr, weight_decay = meta["groups_lr_wd"][next(iter(tensor_names))]
    schedule = ConfigDict(
        dict(
            name="poly",
            power=meta["power"],
            min_lr=meta["min_lr"],
            warmup_steps=meta["warmup_iters"],
            warmup_ratio=meta["warmup_ratio"],
        )
    )
    config = ConfigDict(
        dict(
            name="adamw", lr=lr, b1=0.9, b2=0.999, eps=1e-8, weight_decay=weight_decay, clip_norm=0
        )
    )
    optimizer = build_optimizer(config, schedule, meta["max_iters"], groups, trained)

    @jax.jit
    def step(trained, state, batch):
        def loss_of(trained):
            return merge_model(graphdef, {**trained, **frozen}).loss(batch, vocabulary, None)

        (value, scalars), grads = jax.value_and_grad(loss_of, has_aux=True)(trained)
        updates, state = optimizer.update(grads, state, trained)
        losses = jnp.stack([scalars["loss_mask"], scalars["loss_dice"], value])
        return optax.apply_updates(trained, updates), state, losses

    state, losses = optimizer.init(trained), []
    for i in range(meta["steps"]):
        batch = {
            "image": to_nhwc(arrays[f"in/img_{i}"]),
            "label": jnp.asarray(arrays[f"in/label_{i}"]),
        }
        trained, state, values = step(trained, state, batch)
        losses.append(values)
    rates = build_schedule(schedule, lr, meta["max_iters"])(jnp.arange(meta["steps"]))
    after = ZEGCLIP_MAP.outward({**trained, **frozen})
    return (
        {"out/losses": loss(jnp.stack(losses)), "out/lr": output(rates, limit=1e-6)}
        | {f"after/{name}": output(value) for name, value in after.items()}
        | {
            f"after/{name}": not_compared(
                "its true gradient is 0, Adam turns rounding noise into full steps",
                informative=True,
            )
            for name in meta["not_comparable"]
        }
        | _published_schedules(arrays)
    )


def _published_schedules(arrays: Arrays) -> dict[str, Quantity]:
    schedule = ConfigDict(
        dict(name="poly", power=0.9, min_lr=1e-6, warmup_steps=1500, warmup_ratio=1e-6)
    )
    quantities = {}
    for name in names(arrays, "sched64/"):
        length = name.removesuffix("_lr")
        steps = int(length.removesuffix("k")) * 1000
        rates = build_schedule(schedule, 2e-4, steps)(jnp.asarray(arrays[f"sched/{length}_iters"]))
        quantities[f"sched64/{name}"] = output(rates, limit=1e-6)
    return quantities
