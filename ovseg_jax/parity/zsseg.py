"""Parity of the parts of zsseg that sit on CLIP: prompts, regions, scores, pseudo labels."""

from collections.abc import Mapping
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.convert.clip import (
    CLIP_MAP,
    CLIP_RESNET_MAP,
    VIT_RULES,
    resnet_config,
    text_config,
    vit_config,
)
from ovseg_jax.convert.name_map import NameMap, linear, prefixed, rule
from ovseg_jax.convert.zsseg import (
    PROMPT_MAP,
    QUERY_ADAPTER,
    adapter_dropped,
    adapter_rules,
)
from ovseg_jax.metrics.confusion import confusion_matrix
from ovseg_jax.networks.clip import CLIPConfig, TextConfig, VisionTransformer, ViTConfig
from ovseg_jax.networks.clip_resnet import AttentionPool
from ovseg_jax.networks.mask_scores import pseudo_labels
from ovseg_jax.networks.positions import resize_positions
from ovseg_jax.ops.images import normalize
from ovseg_jax.ops.masks import overlap_scores, overlaps
from ovseg_jax.ops.mixture import Mixture
from ovseg_jax.ops.regions import cut_region, cut_regions, expand_boxes, mask_boxes
from ovseg_jax.params import merge_model
from ovseg_jax.parity.model import gradients, load_model, names, tensors, to_nchw, to_nhwc
from ovseg_jax.parity.runner import Arrays, Quantity, exact, gradient, loss, output
from ovseg_jax.pictures import CLIP_MEAN, CLIP_STD
from ovseg_jax.systems.clip import ClipSystem, ClipSystemConfig
from ovseg_jax.systems.prompt_learning import PromptLearning, PromptLearningConfig
from ovseg_jax.text.vocabulary import Vocabulary

REGION_SIZE = 224  # side of what CLIP gets

# Recorded prompts have no prefix before the names of an adapter and of its CLIP.
_BARE_MAP = NameMap(
    "zsseg's prompts", (*adapter_rules(""), *CLIP_MAP.rules), dropped=adapter_dropped("")
)
_VIT_MAP = NameMap("CLIP's image tower", prefixed(VIT_RULES, "visual_vit."))
_POOL_MAP = NameMap(
    "CLIP's attention pool",
    (
        rule("attnpool.positional_embedding", "positions"),
        *linear("attnpool.q_proj", "query"),
        *linear("attnpool.k_proj", "key"),
        *linear("attnpool.v_proj", "value"),
        *linear("attnpool.c_proj", "out"),
    ),
)
_VOCABULARY = TextConfig().vocab_size
_TEXT_PARTS = ("clip/text/", "clip/logit_scale", "prompt/")


def recorded_tensors(arrays: Arrays) -> dict[str, np.ndarray]:
    """The source's tensors of a file, with the rows of the token embedding in their places."""
    theirs = tensors(arrays)
    for name in [name for name in theirs if name.endswith("token_embedding.rows_used")]:
        used = theirs.pop(name)
        table = np.zeros((_VOCABULARY, used.shape[1]), np.float32)
        table[arrays["in/token_ids_used"]] = used
        theirs[name.removesuffix("rows_used") + "weight"] = table
    return theirs


def adapter_map(theirs: Mapping[str, np.ndarray], clip: str) -> NameMap:
    """The map of the CLIP of an adapter, whose names begin with `clip`."""
    return CLIP_RESNET_MAP if f"{clip}visual.layer1.0.conv1.weight" in theirs else CLIP_MAP


def adapter_config(theirs: Mapping[str, np.ndarray], sizes: Mapping, clip: str = "") -> CLIPConfig:
    """Sizes of the CLIP of an adapter; without an image tower in the file it is tiny.

    Args:
      theirs: the source's tensors.
      sizes: the meta data on CLIP.
      clip: prefix of CLIP's names.
    """
    tower = f"{clip}visual."
    if adapter_map(theirs, clip) is CLIP_RESNET_MAP:
        image = resnet_config(theirs, tower)
    elif f"{tower}proj" in theirs:
        image = vit_config(theirs, tower, heads=sizes["vision_heads"])
    else:
        image = ViTConfig(16, 16, 8, 1, 1)
    return CLIPConfig(
        theirs[f"{clip}text_projection"].shape[1],
        image,
        text_config(theirs, clip, heads=sizes["text_heads"]),
    )


def compare_prompt_predefined(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Features of names in several templates, and their means."""
    theirs = recorded_tensors(arrays)
    config = ClipSystemConfig(adapter_config(theirs, meta))
    graphdef, params = load_model(
        lambda rngs: ClipSystem(config, rngs=rngs), CLIP_MAP, theirs, _TEXT_PARTS
    )
    system = merge_model(graphdef, params)
    tokens = jnp.asarray(arrays["in/tokens"], jnp.int32)  # [P, n, L]
    raw = system.clip.encode_text(tokens.reshape(-1, tokens.shape[-1]))
    return {
        "out/encode_text_raw": output(raw.reshape(*tokens.shape[:2], -1)),
        "out/text_features": output(system.encode_vocabulary(tokens.swapaxes(0, 1))),
    }


def compare_prompt_learnable(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Prompts put together, their features, and gradients of the learned vectors."""
    theirs = recorded_tensors(arrays)
    config = PromptLearningConfig(
        adapter_config(theirs, meta), prefix=meta["n_prefix"], suffix=meta["n_suffix"]
    )
    graphdef, params = load_model(
        lambda rngs: PromptLearning(config, rngs=rngs), _BARE_MAP, theirs, _TEXT_PARTS
    )
    tokens = jnp.asarray(arrays["in/name_tokens"], jnp.int32)
    cotangent = jnp.asarray(arrays["in/cotangent"])

    @jax.jit
    def forward(params):
        system = merge_model(graphdef, params)
        embedded, end = system.prompt.embed(system.clip.text, tokens)
        raw = system.prompt.encode(system.clip.text, tokens)
        return embedded, end, raw, system.encode_vocabulary(tokens[:, None])

    embedded, end, raw, features = forward(params)
    value, grads = gradients(
        graphdef,
        params,
        _BARE_MAP,
        names(arrays, "grad/"),
        lambda system: (system.encode_vocabulary(tokens[:, None]) * cotangent).sum(),
    )
    return {
        "out/embeddings": output(embedded),
        "out/eot_index": exact(end),
        "out/text_features_raw": output(raw),
        "out/text_features": output(features),
        "out/loss": loss(value),
    } | {f"grad/{name}": gradient(grad) for name, grad in grads.items()}


def compare_visual_sizes(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Image tower and attention pool on other grids than their own, pooled and dense."""
    sizes, theirs = meta["vit"], tensors(arrays)
    pool_tensors = {name: theirs.pop(name) for name in [*theirs] if name.startswith("attnpool.")}
    config = vit_config(theirs, "visual_vit.", heads=sizes["heads"])
    tower = merge_model(
        *load_model(
            lambda rngs: VisionTransformer(config, sizes["output_dim"], rngs=rngs), _VIT_MAP, theirs
        )
    )
    sizes = meta["attnpool"]
    shape = SimpleNamespace(
        channels=sizes["embed_dim"], heads=sizes["num_heads"], grid=sizes["spacial_dim"]
    )
    pool = merge_model(
        *load_model(
            lambda rngs: AttentionPool(shape, sizes["output_dim"], rngs=rngs),
            _POOL_MAP,
            pool_tensors,
        )
    )
    quantities = {}
    for number in names(arrays, "in/vit_image_"):
        image = to_nhwc(arrays[f"in/vit_image_{number}"])
        quantities |= {
            f"out/vit_cls_{number}": output(tower(image)),
            f"out/vit_dense_{number}": output(tower.dense(image)),
        }
    for number in names(arrays, "in/pool_x_"):
        x = to_nhwc(arrays[f"in/pool_x_{number}"])
        quantities |= {
            f"out/pool_cls_{number}": output(pool(x)),
            f"out/pool_all_{number}": output(pool.all_answers(x).swapaxes(0, 1)),
        }
    return quantities


def compare_regions(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Boxes, and regions as CLIP gets them."""
    image = normalize(arrays["in/image"].transpose(1, 2, 0), CLIP_MEAN, CLIP_STD)
    fill = _fill(meta["mask_fill"])
    soft = jnp.asarray(arrays["in/masks"])
    masks = soft > meta["mask_thr"]
    boxes, valid = mask_boxes(masks)
    expanded = expand_boxes(boxes, meta["mask_expand_ratio"], image.shape[:2])
    painted, stride = soft if meta["mask_matting"] else masks, meta["stored_stride"]
    quantities = {
        "out/valid": exact(valid),
        "out/boxes_xyxy": exact(boxes[valid]),
        "out/expanded_boxes_ltrb": exact(expanded[valid]),
        "out/pixel_mean": output(np.reshape(CLIP_MEAN, (1, 3, 1, 1)), limit=1e-6),
        "out/pixel_std": output(np.reshape(CLIP_STD, (1, 3, 1, 1)), limit=1e-6),
    }
    if not meta["region_resized"]:
        parts = zip(painted[valid], expanded[valid], strict=True)
        regions = [cut_region(image, mask, box, fill) for mask, box in parts]
        return quantities | {
            f"out/region_{number}": output(to_nchw(region[None])[..., ::stride, ::stride])
            for number, region in enumerate(regions)
        }
    regions = to_nchw(cut_regions(image, painted, expanded, REGION_SIZE, fill)[valid])
    return quantities | {
        "out/regions": output(regions[..., ::stride, ::stride]),
        "out/regions_mean": output(regions.mean((2, 3))),
        "out/regions_std": output(regions.std((2, 3), ddof=1)),
        "out/regions_max": output(regions.max((2, 3))),
    }


def _fill(name: str) -> jax.Array:
    """Normalised colour that is painted outside of masks."""
    return jnp.zeros(3) if name == "mean" else -jnp.asarray(CLIP_MEAN) / jnp.asarray(CLIP_STD)


def compare_prompt_training(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """One step of the first stage: painted pictures, logits, loss and gradients of the prompt."""
    theirs = recorded_tensors(arrays)
    prefix, suffix = meta["prompt_shape"]
    clip = adapter_config(theirs, meta["clip"], f"{QUERY_ADAPTER}clip_model.")
    config = PromptLearningConfig(clip, prefix=prefix, suffix=suffix)
    graphdef, params = load_model(
        lambda rngs: PromptLearning(config, rngs=rngs), PROMPT_MAP, theirs
    )
    numbers = names(arrays, "in/image_")
    pictures = np.stack([arrays[f"in/image_{n}"].transpose(1, 2, 0) for n in numbers])
    batch = {
        "image": normalize(pictures, CLIP_MEAN, CLIP_STD),
        "label": jnp.stack([jnp.asarray(arrays[f"in/mask_{n}"], jnp.int32) for n in numbers]),
        "class_id": jnp.concatenate([jnp.asarray(arrays[f"in/label_{n}"]) for n in numbers]),
    }
    tokens = jnp.asarray(arrays["in/name_tokens"], jnp.int32)
    count = len(tokens)
    vocabulary = Vocabulary(None, jnp.arange(count), jnp.ones(count, bool), tokens[:, None])

    @jax.jit
    def forward(params):
        system = merge_model(graphdef, params)
        painted = system.paint(batch["image"], batch["label"] == 1)
        rows = system.encode_vocabulary(vocabulary.tokens)
        tower = system.clip.image
        features, logits = tower(painted), system.region_logits(painted, rows)
        return painted, features, logits, tower.positions[...]

    painted, features, logits, positions = forward(params)
    grid = pictures.shape[1] // clip.image.patch_size, pictures.shape[2] // clip.image.patch_size
    value, grads = gradients(
        graphdef,
        params,
        PROMPT_MAP,
        names(arrays, "grad/"),
        lambda system: system.loss(batch, vocabulary, None)[0],
    )
    return {
        "out/visual_input_stride4": output(to_nchw(painted)[..., ::4, ::4]),
        "out/image_features_unnormalised": output(features),
        "out/logits": output(logits),
        "out/loss_cls": loss(value),
        "out/pos_embed_resized": output(resize_positions(positions, grid)[1:].reshape(*grid, -1)),
    } | {f"grad/{name}": gradient(grad) for name, grad in grads.items()}


def compare_oracle(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Overlaps of proposals with the truth, and the maps that they give."""
    masks = jax.nn.sigmoid(jnp.asarray(arrays["in/mask_logits"]))
    proposed = (masks > 0.5).astype(jnp.float32)
    truth = (jnp.asarray(arrays["in/gt_masks"]) > 0).astype(jnp.float32)
    both = jnp.einsum("qhw,khw->qk", proposed, truth)
    found = overlaps(both, proposed.sum((1, 2)), truth.sum((1, 2)))
    classes = jax.nn.one_hot(arrays["in/gt_classes"], meta["num_classes"])
    scores = jnp.matmul(overlap_scores(found), classes, precision=jax.lax.Precision.HIGHEST)
    maps = Mixture(masks.transpose(1, 2, 0)[None], scores[None]).scores()
    return {
        "out/iou": output(found),
        "out/sem_seg": output(maps[0].transpose(2, 0, 1)),
    }


def compare_pseudo_labels(arrays: Arrays, meta: Mapping) -> dict[str, Quantity]:
    """Labels for self-training, and what they are worth."""
    scores = jnp.asarray(arrays["in/scores"]).transpose(1, 2, 0)
    truth, count = jnp.asarray(arrays["in/gt"], jnp.int32), meta["num_classes"]
    seen = jnp.asarray(meta["trainable_flag"], bool)
    quantities = {}
    for number, variant in enumerate(meta["variants"]):
        threshold, prior = variant["reject_threshold"], variant["with_prior"]
        labels = pseudo_labels(scores, truth, seen, threshold=threshold, prior=prior)
        quantities |= {
            f"out/pseudo_label_{number}": exact(labels),
            f"out/conf_matrix_{number}": exact(confusion_matrix(truth, labels, count, -1).T),
        }
    return quantities
