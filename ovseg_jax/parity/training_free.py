"""Parity of the training-free methods: features, refinements, and pictures end to end."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ovseg_jax.convert.clip import CLIP_MAP, CLIP_RESNET_MAP, clip_config, resnet_config
from ovseg_jax.convert.name_map import NameMap
from ovseg_jax.convert.vit import dino_config, dino_map
from ovseg_jax.inference import (
    Canvas,
    Model,
    Protocol,
    encode_vocabulary,
    lay_on_canvas,
    segment,
)
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, VisionTransformer
from ovseg_jax.networks.clip import normalize as unit
from ovseg_jax.networks.positions import resize_positions
from ovseg_jax.networks.training_free import (
    CHANGES,
    POSITION_OFFSET,
    block_inputs,
    changed_tokens,
    gaussian,
    gem_tokens,
    heads,
    maskclip_original,
    maskclip_parts,
    neighbourhood,
    pad_to_patches,
    refine,
)
from ovseg_jax.ops.images import normalize
from ovseg_jax.ops.resize import resize
from ovseg_jax.ops.windows import num_windows, window_starts
from ovseg_jax.params import Flat, merge_model, split_model
from ovseg_jax.parity.model import load_model, names, tensors, to_nchw, to_nhwc
from ovseg_jax.parity.runner import Arrays, Quantity, exact, label_map, output
from ovseg_jax.systems.training_free import TrainingFree, TrainingFreeConfig, pad_around
from ovseg_jax.text.vocabulary import Vocabulary

_LABEL_BLOCK = 128  # label shapes of `segment` are multiples of this
_PROXY = "vfm."  # stands before the names of ProxyCLIP's other network
_PROXY_MULTIPLE = 56  # ProxyCLIP pads windows to whole patches of 8 and of 14

_NAMES = {"vanilla": "clip", "MaskCLIP": "maskclip", "SCLIP": "sclip", "ClearCLIP": "clearclip"}
_STRATEGIES = {
    "naclip": "naclip",
    "nonly": "nearby_only",
    "kk": "key_key",
    "csa": "sclip",
    "vanilla": "clip",
}

# Tower, image and what `block_inputs` gives for it -> features.
Features = Callable[[VisionTransformer, jax.Array, list[jax.Array]], jax.Array]


def _sizes(theirs: Mapping[str, np.ndarray], meta: Mapping, **image) -> CLIPConfig:
    """Sizes of both towers; the meta data tell heads and activation."""
    cfg = meta["cfg"]
    activation = meta["activation"].split()[0]
    return clip_config(
        theirs,
        image=dict(heads=cfg["vh"], activation=activation, **image),
        text=dict(heads=cfg["th"]),
    )


def _load(
    theirs: Mapping[str, np.ndarray], config: TrainingFreeConfig, name_map: NameMap = CLIP_MAP
) -> tuple[nnx.GraphDef, Flat]:
    return load_model(lambda rngs: TrainingFree(config, rngs=rngs), name_map, theirs)


def _vocabulary(embeddings: np.ndarray, class_ids: np.ndarray | None = None) -> Vocabulary:
    ids = np.arange(len(embeddings)) if class_ids is None else class_ids
    return Vocabulary(
        embeddings=jnp.asarray(embeddings, jnp.float32),
        class_ids=jnp.asarray(ids, jnp.int32),
        seen=jnp.ones(len(ids), bool),
    )


# --- Features ---------------------------------------------------------------------------------


def compare_dense(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """All changes of the last block, on images of several shapes."""
    theirs = tensors(arrays)
    clip = merge_model(*_load(theirs, TrainingFreeConfig(clip=_sizes(theirs, meta)))).clip
    quantities = _features(clip.image, arrays, _dense_case)
    if "in/text_tokens" in arrays:
        tokens = jnp.asarray(arrays["in/text_tokens"], jnp.int32)
        encode = jax.jit(lambda tokens: clip.encode_text(tokens))
        quantities["out/text_features"] = output(encode(tokens))
    return quantities


def compare_gem(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """GEM at several depths, iterations and temperatures, and the unchanged stream beside it."""
    theirs = tensors(arrays)
    system = merge_model(*_load(theirs, TrainingFreeConfig(clip=_sizes(theirs, meta))))
    return _features(system.clip.image, arrays, _gem_case)


def _features(
    vit: VisionTransformer, arrays: Arrays, case: Callable[[str], Features | None]
) -> dict[str, Quantity]:
    """Whatever `case` knows among the keys out/NAME/INPUT, compiled once for each input.

    Of out/NAME/INPUT_first only the first image was recorded.
    """
    quantities = {}
    keys = [key.split("/") for key in names(arrays, "out/") if key.count("/") == 1]
    for name in names(arrays, "in/"):
        found = [(what, key) for what, key in keys if key.removesuffix("_first") == name]
        cases = {f"out/{what}/{key}": case(what) for what, key in found}

        @jax.jit
        def forward(image, cases=cases):
            inputs = block_inputs(vit, image)
            return {key: case(vit, image, inputs) for key, case in cases.items() if case}

        if found:
            results = forward(to_nhwc(arrays[f"in/{name}"]))
            quantities |= {key: output(value[: len(arrays[key])]) for key, value in results.items()}
    return quantities


def _dense_case(name: str) -> Features | None:
    if name in CHANGES:
        return functools.partial(_changed, method=name)
    if name in _DENSE_CASES:
        return _DENSE_CASES[name]
    if found := re.fullmatch(r"gauss_(window|addition)_([\d.]+)", name):
        return functools.partial(_nearness, kind=found[1], sigma=float(found[2]))
    if found := re.fullmatch(r"naclip_(reduced|vanilla)_(\w+)_([\d.]+)", name):
        method = _STRATEGIES.get(found[2])
        options = {"sigma": float(found[3])} if method in ("naclip", "nearby_only") else {}
        options |= {"method": method, "residual": found[1] == "vanilla"}
        return functools.partial(_changed, **options) if method else None
    if found := re.fullmatch(r"(\w+?)_(res|nores)(?:_last(\d+))?", name):
        if found[1] not in _NAMES:
            return None
        options = {"method": _NAMES[found[1]], "residual": found[2] == "res"}
        options |= {"blocks": int(found[3] or 1)}
        return lambda *inputs: _changed(*inputs, **options)[:, 1:]
    return None


def _changed(
    vit: VisionTransformer, image: jax.Array, inputs: list[jax.Array], **options
) -> jax.Array:
    return changed_tokens(vit, image, inputs=inputs, **options)


def _nearness(
    vit: VisionTransformer, image: jax.Array, inputs: list[jax.Array], kind: str, sigma: float
) -> np.ndarray:
    h, w = vit.grid(image)
    if kind == "addition":
        return neighbourhood((h, w), sigma)
    return gaussian(np.arange(1 - h, h)[:, None], np.arange(1 - w, w), sigma)


def _correlative_weights(
    vit: VisionTransformer, image: jax.Array, inputs: list[jax.Array]
) -> jax.Array:
    """SCLIP's attention weights in the last block, [B · heads, M, M]."""
    last = vit.blocks[-1]
    q, k, _ = heads(last.attention, last.norm1(inputs[-1]))
    weights = CHANGES["sclip"].attention(q, k, vit.grid(image))
    return weights.reshape(-1, *weights.shape[2:])


def _positions(vit: VisionTransformer, image: jax.Array, inputs: list[jax.Array]) -> jax.Array:
    h, w = vit.grid(image)
    keep = h * w == vit.config.grid**2
    return resize_positions(vit.positions[...], (h, w), offset=POSITION_OFFSET, keep=keep)


_DENSE_CASES: dict[str, Features] = {
    "clip_cls": lambda *inputs: _changed(*inputs, method="clip")[:, 0],
    "sclip_attn": _correlative_weights,
    "pos": _positions,
}


def _gem_case(name: str) -> Features | None:
    if name == "gem_ori":
        return lambda vit, image, inputs: gem_tokens(vit, image, depth=1)
    found = re.fullmatch(r"gem_d(\d+)_it(\d+)_t(None|[\d.]+)", name)
    if found is None:
        return None
    temperature = None if found[3] == "None" else float(found[3])
    options = dict(depth=int(found[1]), iterations=int(found[2]), temperature=temperature)
    return lambda vit, image, inputs: gem_tokens(vit, image, **options)


# --- MaskCLIP as published --------------------------------------------------------------------


def compare_maskclip_vit(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Parts of the last block, refined scores, and label maps of whole pictures."""
    theirs = tensors(arrays)
    sizes = _sizes(theirs, meta, norm_eps=meta["ln_eps"])
    graphdef, params = _load(theirs, TrainingFreeConfig(sizes, None, "maskclip_original", (), 1.0))
    vocabulary = _vocabulary(arrays["in/text_embeddings"])
    quantities = {}
    for name in names(arrays, "in/"):
        if name == "text_embeddings":
            continue
        originals = {
            key.rpartition("/pred_")[2]: arrays[key].shape[1:]
            for key in arrays
            if key.startswith(f"out/{name}/pred_")
        }

        @jax.jit
        def forward(params, image, originals=originals):
            system = merge_model(graphdef, params)
            results = _maskclip_parts(system.clip.image, image)
            for ks, pd in meta["combos"]:
                options = (("key_smoothing", ks), ("prompt_denoising", pd))
                system.config = dataclasses.replace(system.config, options=options)
                pair = f"ks{ks}_pd{pd}"
                padded = pad_to_patches(image, system.clip.image.config.patch_size)
                results[f"head_{pair}"] = to_nchw(system.logits(system.encode(padded), vocabulary))
                if pair in originals:
                    labels, softmax = _whole_pictures(system, vocabulary, image, originals[pair])
                    results |= {f"pred_{pair}": labels, f"softmax_{pair}": softmax}
            return results

        results = forward(params, to_nhwc(arrays[f"in/{name}"]))
        quantities |= {
            f"out/{name}/{key}": label_map(value) if key.startswith("pred") else output(value)
            for key, value in results.items()
        }
    return {key: value for key, value in quantities.items() if key in arrays}


def _maskclip_parts(vit: VisionTransformer, image: jax.Array) -> dict[str, jax.Array]:
    padded = pad_to_patches(image, vit.config.patch_size)
    h, w = vit.grid(padded)
    tokens = vit.encode(padded, keep=h * w == vit.config.grid**2)
    v, q, k = maskclip_parts(vit, padded)

    def mapped(x):
        return to_nchw(x.reshape(len(x), h, w, -1))

    return {"backbone_x": mapped(vit.norm_post(tokens[:, 1:])), "q": q, "k": k, "v": mapped(v)}


def _whole_pictures(
    system: TrainingFree, vocabulary: Vocabulary, image: jax.Array, original: tuple[int, int]
) -> tuple[jax.Array, jax.Array]:
    """Labels [B, H, W] and softmax [B, N, H, W] at the original size, of images [B, h, w, 3]."""
    patch = system.clip.image.config.patch_size
    size, (height, width) = image.shape[1:3], original
    labels, scores = segment(
        Model(*split_model(system), np.zeros(3), np.ones(3)),
        vocabulary,
        pad_to_patches(image, patch),
        jnp.tile(jnp.asarray(size), (len(image), 1)),
        jnp.tile(jnp.asarray(original), (len(image), 1)),
        protocol=Protocol(short_side=min(size), patch=patch, pad_patches=True),
        label_shape=tuple(-(-n // _LABEL_BLOCK) * _LABEL_BLOCK for n in original),
        with_scores=True,
    )
    softmax = jax.nn.softmax(scores[:, :height, :width], axis=-1)
    return labels[:, :height, :width], to_nchw(softmax)


def compare_maskclip_resnet(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Feature maps of the stages, and scores with and without smoothing and attention pooling."""
    theirs = tensors(arrays)
    tiny = TextConfig(context=2, vocab_size=2, width=8, layers=1, heads=1)
    sizes = CLIPConfig(meta["embed_dim"], resnet_config(theirs), tiny)
    config = TrainingFreeConfig(clip=sizes, method="maskclip_original")
    graphdef, params = load_model(
        lambda rngs: TrainingFree(config, rngs=rngs), CLIP_RESNET_MAP, theirs, ("clip/image/",)
    )
    image, text = to_nhwc(arrays["in/image"]), jnp.asarray(arrays["in/text_embeddings"])
    heads, real = names(arrays, "out/head_"), jnp.ones(len(text), bool)

    @jax.jit
    def forward(params):
        resnet = merge_model(graphdef, params).clip.image
        results = {f"stage{i}": x for i, x in enumerate(resnet.features(image))}
        for name in heads:
            pooling, ks, pd = re.fullmatch(r"pool(\d)_ks([\d.]+)_pd([\d.]+)", name).groups()
            features, keys = maskclip_original(resnet, image, attention_pooling=pooling == "1")
            options = dict(key_smoothing=float(ks), prompt_denoising=float(pd))
            results[f"head_{name}"] = refine(unit(features) @ text.T, keys, real, **options)
        return results

    results = {f"out/{name}": to_nchw(value) for name, value in forward(params).items()}
    # Some maps are recorded of the first picture only.
    return {
        key: output(value[: len(arrays[key])]) for key, value in results.items() if key in arrays
    }


# --- Pictures end to end ----------------------------------------------------------------------


def compare_pictures(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """One picture from its pixels to its labels, in windows or whole."""
    theirs = tensors(arrays)
    config = _picture_config(theirs, meta)
    name_map = _with_proxy(CLIP_MAP) if config.proxy else CLIP_MAP
    mean, std = (np.asarray(meta[key], np.float32) for key in ("mean", "std"))
    model = Model(*_load(theirs, config, name_map), {}, mean, std)
    protocol = _protocol(meta, config)
    tokens = jnp.asarray(arrays["in/tokens"], jnp.int32)
    queries = encode_vocabulary(model, tokens)
    vocabulary = _vocabulary(queries, arrays["in/query_idx"])
    canvas = lay_on_canvas(arrays["in/image_rgb"], protocol)
    height, width = canvas.size
    picture = canvas.pixels[:height, :width]
    image = normalize(picture[None], mean, std)  # [1, h, w, 3]
    quantities = {
        "out/query_features": output(queries),
        "out/resized_rgb": exact(picture),
        "out/inputs": output(to_nchw(image)),
    }
    quantities |= _windows(model, vocabulary, image, arrays, protocol)
    return quantities | _decisions(model, vocabulary, canvas, image, meta, protocol)


def _picture_config(theirs: Mapping[str, np.ndarray], meta: Mapping) -> TrainingFreeConfig:
    method = str(meta["method"]).split()[0].lower().replace("plain", "clip")
    options, multiple, proxy = {}, 1, None
    if method == "naclip":
        strategy = _STRATEGIES[meta["attn"]]
        options["residual"] = meta["arch"] == "vanilla"
        if strategy in ("naclip", "nearby_only"):
            options["sigma"] = float(meta["gaussian_std"])
        method = strategy
    elif method == "proxyclip":
        options |= {"beta": meta["beta"], "gamma": meta["gamma"]}
        proxy = dino_config(theirs, _PROXY, heads=meta["vfm_cfg"]["heads"])
        multiple = _PROXY_MULTIPLE
    elif method != "sclip":  # the other ones run in ClearCLIP's code
        multiple = meta["cfg"]["p"]
    return TrainingFreeConfig(
        clip=_sizes(theirs, meta),
        proxy=proxy,
        method=method,
        options=tuple(options.items()),
        logit_scale=float(meta["logit_scale"]),
        window_multiple=multiple if meta["slide_crop"] else 1,
    )


def _with_proxy(clip: NameMap) -> NameMap:
    proxy = dino_map(_PROXY)
    return NameMap("CLIP and DINO", clip.rules + proxy.rules, clip.dropped + proxy.dropped)


def _protocol(meta: Mapping, config: TrainingFreeConfig) -> Protocol:
    crop = meta["slide_crop"]
    steps = meta.get("pamr_steps", 0)
    return Protocol(
        short_side=min(meta["resize_scale"]),
        long_side=max(meta["resize_scale"]),
        crop=crop,
        stride=meta["slide_stride"] if crop else 0,
        patch=meta["cfg"]["p"] if config.window_multiple == 1 and not config.proxy else 1,
        pamr_steps=steps,
        pamr_dilations=tuple(meta["pamr_dilations"]) if steps else (1,),
        area=meta["area_thd"] or 0.0,
        threshold=meta["prob_thd"] or 0.0,
    )


def _windows(
    model: Model, vocabulary: Vocabulary, image: jax.Array, arrays: Arrays, protocol: Protocol
) -> dict[str, Quantity]:
    """Single windows, one by one: as the network sees them, and what it makes of them."""
    wanted = [int(found[1]) for key in arrays if (found := re.match(r"out/crop(\d+)_logits", key))]
    corners, crop = _corners(image.shape[1:3], protocol)
    scale = model.system().config.logit_scale

    @jax.jit
    def forward(model, window):
        system = model.system()
        padded = pad_around(window, system.config.window_multiple)
        results = {"input": padded, "logits": system.predict(padded, vocabulary) / scale}
        if system.proxy is not None:
            results["vfm_feats"] = system.proxy_features(padded)
            results["tokens"] = system.features(padded)[0]
        return results

    quantities = {}
    for index in wanted:
        if index >= len(corners):
            continue
        y, x = corners[index]
        results = forward(model, image[:, y : y + crop[0], x : x + crop[1]])
        tokens = results.pop("tokens", None)
        results = {name: to_nchw(value) for name, value in results.items()}
        if tokens is not None:
            results["tokens"] = tokens.reshape(1, -1, tokens.shape[-1])
        quantities |= {f"out/crop{index}_{name}": output(x) for name, x in results.items()}
    return {key: value for key, value in quantities.items() if key in arrays}


def _corners(
    size: tuple[int, int], protocol: Protocol
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Upper left corners of all windows of a picture, row by row, and their shape."""
    crop = tuple(min(protocol.crop or n, n) for n in size)
    starts = [
        np.asarray(window_starts(n, num_windows(n, c, protocol.stride or n), c, protocol.stride))
        for n, c in zip(size, crop, strict=True)
    ]
    return [(int(y), int(x)) for y in starts[0] for x in starts[1]], crop


def _decisions(
    model: Model,
    vocabulary: Vocabulary,
    canvas: Canvas,
    image: jax.Array,
    meta: Mapping,
    protocol: Protocol,
) -> dict[str, Quantity]:
    """Averaged windows, scores at the original size before and after refinement, and labels."""
    raw = dataclasses.replace(protocol, area=0.0, threshold=0.0)
    unrefined = dataclasses.replace(raw, pamr_steps=0)
    protocols = [protocol, raw, dataclasses.replace(unrefined, short_side=0), unrefined]
    decided = _segment_each(model, vocabulary, canvas, protocols)
    (labels, probabilities), *scores = decided
    if not protocol.needs_softmax():
        probabilities = jax.nn.softmax(probabilities, axis=-1)
    best = _per_class(np.asarray(probabilities[0]), np.asarray(vocabulary.class_ids))
    if str(meta["method"]) == "NACLIP":  # its maxima of synonyms are brought to a sum of 1
        best = best / best.sum(0)
    final, windows, before = (to_nchw(found) / meta["logit_scale"] for _, found in scores)
    quantities = {
        "out/window_logits": output(windows),
        "out/final_logits": output(final),
        "out/seg_probs": output(best),
        "out/pred": label_map(labels),
    }
    if protocol.pamr_steps:
        quantities |= {
            "out/pamr_in_image": output(to_nchw(resize(image, canvas.original_size))),
            "out/pamr_in": output(before),
            "out/pamr_out": output(final),
        }
    return quantities


def _segment_each(
    model: Model, vocabulary: Vocabulary, canvas: Canvas, protocols: Sequence[Protocol]
) -> list[tuple[jax.Array, jax.Array]]:
    """Labels [1, H, W] and scores [1, H, W, N] by several protocols that share their windows.

    They are of the original size, or of the resized picture's by a protocol without `short_side`.
    In one program, what the protocols share is compiled once.
    """
    sizes, originals = (jnp.asarray([size]) for size in (canvas.size, canvas.original_size))

    @jax.jit
    def run(model, vocabulary, pixels):
        return [
            segment(
                model,
                vocabulary,
                pixels,
                sizes,
                originals,
                protocol=protocol,
                label_shape=canvas.label_shape if protocol.short_side else pixels.shape[1:3],
                with_scores=True,
            )
            for protocol in protocols
        ]

    results = []
    for protocol, found in zip(protocols, run(model, vocabulary, canvas.pixels[None]), strict=True):
        height, width = canvas.original_size if protocol.short_side else canvas.size
        results.append(tuple(x[:, :height, :width] for x in found))
    return results


def _per_class(rows: np.ndarray, class_ids: np.ndarray) -> np.ndarray:
    """Best row of each class: [H, W, N] -> [classes, H, W]."""
    return np.stack([rows[..., class_ids == i].max(-1) for i in range(class_ids.max() + 1)])
