"""Parity of zsseg's segmenters as a whole: training, and pictures to maps."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ovseg_jax.convert.maskformer import maskformer_config, pixel_decoder_config
from ovseg_jax.convert.resnet import resnet_config
from ovseg_jax.convert.zsseg import QUERY_ADAPTER, REGION_ADAPTER, segmenter_map
from ovseg_jax.convert.zsseg_models import class_head_sizes, prompt_sizes
from ovseg_jax.networks.mask_scores import cosine_logits
from ovseg_jax.ops.resize import resize
from ovseg_jax.params import Flat, merge_model
from ovseg_jax.parity.maskformer import (
    backbone_choices,
    first_layer_scale,
    load_images,
    predictor_choices,
)
from ovseg_jax.parity.model import gradients, load_model, names, to_nchw
from ovseg_jax.parity.runner import Arrays, Quantity, exact, gradient, loss, output
from ovseg_jax.parity.zsseg import adapter_config, adapter_map, recorded_tensors
from ovseg_jax.systems.zsseg import ZSSeg, ZSSegConfig
from ovseg_jax.systems.zsseg_pixels import ZSSegPixels, ZSSegPixelsConfig
from ovseg_jax.text.vocabulary import Vocabulary

_CLIP = f"{QUERY_ADAPTER}clip_model."


def _load(
    arrays: Arrays, meta: Mapping, own_regions: bool = False, **choices
) -> tuple[ZSSegConfig, nnx.GraphDef, Flat]:
    """The system of a file; what the file lacks of CLIP is zero."""
    theirs = recorded_tensors(arrays)
    name_map = segmenter_map(own_regions, adapter_map(theirs, _CLIP))
    prompt = prompt_sizes(theirs, REGION_ADAPTER if own_regions else QUERY_ADAPTER)
    config = ZSSegConfig(
        adapter_config(theirs, meta["clip"], _CLIP),
        maskformer_config(theirs, backbone_choices(meta), predictor_choices(meta)),
        **class_head_sizes(theirs),
        deep_supervision=meta["deep_supervision"],
        prefix=prompt.prefix,
        suffix=prompt.suffix,
        mask_weight=meta["mask_weight"],
        dice_weight=meta["dice_weight"],
        no_object_weight=meta["no_object_weight"],
        image_mean=tuple(meta["pixel_mean"]),
        image_std=tuple(meta["pixel_std"]),
        **choices,
    )
    held = {path for name in theirs for path in name_map.paths(name) or ()}
    graphdef, params = load_model(lambda rngs: ZSSeg(config, rngs=rngs), name_map, theirs, held)
    return config, graphdef, params


def _tokens(arrays: Arrays, key: str) -> jax.Array:
    """The prompts of the names, int32 [n, P, L]; for a learned one bare names are recorded."""
    tokens = jnp.asarray(arrays[key], jnp.int32)  # [P, n, L] or [n, L]
    return tokens[:, None] if tokens.ndim == 2 else tokens.swapaxes(0, 1)


def _vocabulary(tokens: jax.Array, seen: np.ndarray) -> Vocabulary:
    """Classes 0, 1, … with their tokens, not yet embedded."""
    count = len(tokens)
    return Vocabulary(jnp.zeros((count, 0)), jnp.arange(count), jnp.asarray(seen), tokens)


def _embed(system: ZSSeg, vocabulary: Vocabulary) -> Vocabulary:
    embeddings = system.encode_vocabulary(vocabulary.tokens)
    return dataclasses.replace(vocabulary, embeddings=embeddings)


def _labels(arrays: Arrays, canvas: tuple[int, int]) -> dict[str, np.ndarray]:
    """Label maps of the canvas [B, H, W] and their classes [B, K], from masks of classes."""
    count = len(names(arrays, "in/labels_"))
    listed = [arrays[f"in/labels_{i}"] for i in range(count)]
    labels = np.full((count, *canvas), 255, np.int32)
    classes = np.full((count, max(map(len, listed)) + 1), -1, np.int32)
    for i, found in enumerate(listed):
        classes[i, : len(found)] = found
        for number, mask in zip(found, arrays[f"in/masks_{i}"].astype(bool), strict=True):
            labels[i, : mask.shape[0], : mask.shape[1]][mask] = number
    return {"label": labels, "classes": classes}


def compare_train(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Names, queries, masks, weighted losses of all layers, and gradients."""
    trained = [name for name in meta["trainable_parameters"] if f"param/{name}" in arrays]
    learn_prompt = any("prompt_learner." in name for name in trained)
    config, graphdef, params = _load(arrays, meta, learn_prompt=learn_prompt)
    tokens = _tokens(arrays, "in/tokens")
    vocabulary = _vocabulary(tokens, np.ones(len(tokens), bool))
    image, _ = load_images(arrays, meta)
    batch = {"image": image, **_labels(arrays, image.shape[1:3])}

    @jax.jit
    def forward(params):
        system = merge_model(graphdef, params)
        embedded = _embed(system, vocabulary)
        rows, _ = system._names(embedded)
        outputs = system.maskformer(image)
        return rows, outputs, system.loss(batch, embedded, None)

    text, outputs, (_, terms) = forward(params)

    def total(system):
        return system.loss(batch, _embed(system, vocabulary), None)[0]

    _, grads = gradients(graphdef, params, segmenter_map(), trained, total)
    weights = dict(ce=1.0, mask=config.mask_weight, dice=config.dice_weight)
    quantities = {
        f"out/weighted_{name}": loss(term * weights[name.split("_")[1]])
        for name, term in terms.items()
    }
    norm = np.sqrt(sum(float((np.float64(grad) ** 2).sum()) for grad in grads.values()))
    quantities |= {
        "out/text_features_with_noobj": output(text),
        "out/pred_masks": output(outputs.masks[-1]),
        "out/grad_global_norm": gradient(norm),
    }
    *auxiliary, final = range(len(outputs.classes))
    for layer, prefix in ((final, ""), *((i, f"aux{i}_") for i in auxiliary)):
        queries = outputs.classes[layer]
        quantities |= {
            f"out/{prefix}class_embedding": output(queries),
            f"out/{prefix}sim_logits": output(cosine_logits(queries, text)),
        }
    return quantities | {
        f"grad/{name}": gradient(grads[name], first_layer_scale(name, grads, meta))
        for name in names(arrays, "grad/")
    }


def compare_eval(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Pictures to masks, regions, scores of queries and maps, with variants of the ensemble."""
    own = meta["separate_region_adapter"]
    keys = ("in/tokens", "in/region_tokens") if own else ("in/tokens",)
    tokens = [_tokens(arrays, key) for key in keys]
    queries = tokens[0].shape[1] if own else 0
    config, graphdef, params = _load(
        arrays, meta, own, query_prompts=queries, mask_threshold=meta["mask_thr"]
    )
    flags = np.asarray(meta["trainable_flag"], bool)
    system = merge_model(graphdef, params)
    vocabulary = _embed(system, _vocabulary(jnp.concatenate(tokens, axis=1), flags))
    text, region_text = system._names(vocabulary)
    quantities = {"out/text_features_with_noobj": output(text)}
    if own:
        quantities["out/region_text_features_with_noobj"] = output(region_text)
    for picture in names(arrays, "in/image_"):
        image, sizes = load_images({"in/image_0": arrays[f"in/image_{picture}"]}, meta)
        system.config = config  # not that of the last variant, which may not look at regions
        features = system.encode(image, jnp.asarray(sizes))
        height, width = sizes[0].tolist()
        masks = system._probabilities(features.masks[0], image.shape[1:3])
        valid = np.asarray(features.valid[0])
        logits = cosine_logits(features.regions[0], region_text)
        quantities |= {
            f"out/class_embedding_{picture}": output(features.queries[0]),
            f"out/mask_prob_{picture}": output(masks[:, :height, :width]),
            f"out/valid_{picture}": exact(valid),
            f"out/clip_logits_{picture}": output(logits[valid]),
        }
        shape = tuple(arrays[f"in/out_hw_{picture}"].tolist())
        for number, variant in enumerate(meta["variants"]):
            system.config = _variant(config, variant)
            seen = flags & variant["dataset_has_trainable_flag"]
            flagged = dataclasses.replace(vocabulary, seen=jnp.asarray(seen))
            scores = system.scores(features, flagged)[0]
            maps = system.decode(features, flagged, image.shape[1:3])[0, :height, :width]
            removed = variant["clip_ensemble"] and variant["clip_ensemble_weight"] <= 0
            quantities |= {
                f"out/v{number}_{picture}_final_cls": output(scores[valid] if removed else scores),
                f"out/v{number}_{picture}_sem_seg": output(resize(maps, shape).transpose(2, 0, 1)),
            }
    return quantities


def _variant(config: ZSSegConfig, variant: Mapping) -> ZSSegConfig:
    return dataclasses.replace(
        config, ensemble=variant["clip_ensemble"], ensemble_weight=variant["clip_ensemble_weight"]
    )


def compare_pixels(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """The baseline without proposals: loss and gradients, and maps by three weights."""
    theirs = recorded_tensors(arrays)
    name_map = segmenter_map(clip=adapter_map(theirs, _CLIP))
    config = ZSSegPixelsConfig(
        adapter_config(theirs, meta["clip"], _CLIP),
        resnet_config(theirs, "backbone.", **backbone_choices(meta)),
        pixel_decoder_config(theirs),
        image_mean=tuple(meta["pixel_mean"]),
        image_std=tuple(meta["pixel_std"]),
    )
    graphdef, params = load_model(
        lambda rngs: ZSSegPixels(config, rngs=rngs), name_map, theirs, ("clip/", "maskformer/")
    )
    flags = np.asarray(meta["trainable_flag"], bool)
    system = merge_model(graphdef, params)
    vocabulary = _embed(system, _vocabulary(_tokens(arrays, "in/tokens"), flags))
    rows = np.flatnonzero([name in meta["seen_names"] for name in meta["class_names"]])
    seen = Vocabulary(vocabulary.embeddings[rows], jnp.arange(len(rows)), jnp.ones(len(rows), bool))
    image, _ = load_images(arrays, {**meta, "size_divisibility": 0})
    label = jnp.asarray(arrays["in/sem_seg_0"], jnp.int32)[None]
    value, grads = gradients(
        graphdef,
        params,
        name_map,
        names(arrays, "grad/"),
        lambda system: system.loss({"image": image, "label": label}, seen, None)[0],
    )
    features = system.encode(image)
    embeddings = resize(system.spread(features.embeddings, image.shape[1:3]), meta["out_hw"])

    def maps(weight):
        system.config = dataclasses.replace(config, ensemble_weight=weight)
        return system.scores(embeddings, features.picture, vocabulary)[0]

    return {
        "out/loss_sem_seg": loss(value),
        "out/train_embedding": output(to_nchw(features.embeddings)),
        # The picture's names alone are the same everywhere.
        "out/clip_global_prob": output(maps(-1.0)[0, 0]),
        **{f"grad/{name}": gradient(grad) for name, grad in grads.items()},
        **{
            f"out/sem_seg_w{number}": output(maps(weight).transpose(2, 0, 1))
            for number, weight in enumerate(meta["ensemble_weights"])
        },
    }
