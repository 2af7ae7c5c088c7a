"""What zsseg's checkpoints become: their sizes, the sections of model.json, and the way back."""

import dataclasses
import itertools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.convert.clip import clip_config
from ovseg_jax.convert.maskformer import maskformer_config, pixel_decoder_config
from ovseg_jax.convert.resnet import resnet_config
from ovseg_jax.convert.sections import model_sections, windows
from ovseg_jax.convert.zsseg import QUERY_ADAPTER, REGION_ADAPTER, SIGNALS, check_second_clip
from ovseg_jax.networks.clip import CLIPConfig, ViTConfig
from ovseg_jax.networks.prompts import FULL_STOP, LearnedPrompt
from ovseg_jax.pictures import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

Tensors = Mapping[str, np.ndarray]

_IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
_CLASS_WEIGHTS = "criterion.empty_weight"
_VOC_CLASSES = (15, 20)  # seen ones, all; the other published segmenters are of COCO-Stuff
# Of CLIP's vocabulary: start, full stop, end, padding.
_SIGNAL_TOKENS = dict(zip(SIGNALS, (49406, FULL_STOP, 49407, 0), strict=True))


@dataclasses.dataclass(frozen=True)
class PromptSizes:
    """Sizes of a prompt that comes without CLIP."""

    prefix: int
    suffix: int
    width: int

    def build(self, *, rngs: nnx.Rngs, dtype=jnp.float32) -> LearnedPrompt:
        """The prompt of these sizes."""
        return LearnedPrompt(self.prefix, self.suffix, self.width, rngs=rngs)


def prompt_sizes(tensors: Tensors, adapter: str = QUERY_ADAPTER) -> PromptSizes:
    """Sizes of the prompt of an adapter; all 0 where it has none."""
    names = (f"{adapter}prompt_learner.{side}_prompt" for side in ("prefix", "suffix"))
    prefix, suffix = (tensors[name].shape if name in tensors else (0, 0) for name in names)
    return PromptSizes(prefix[0], suffix[0], max(prefix[1], suffix[1]))


def class_head_sizes(tensors: Tensors) -> dict[str, int]:
    """The fields of `ZSSegConfig` on the projection from queries to CLIP's space."""
    kernel = "sem_seg_head.predictor.class_embed.layers.{}.weight"
    layers = next(i for i in itertools.count() if kernel.format(i) not in tensors)
    return dict(class_hidden=tensors[kernel.format(0)].shape[0], class_layers=layers)


def segmenter_sections(tensors: Tensors) -> ConfigDict:
    """The sections of model.json for the segmenter.

    Templates and weights are the published ones for what the checkpoint holds: what a segmenter
    with fixed prompts was trained with, it does not tell.

    Raises:
      UserError: the regions' adapter has another CLIP than that of the queries.
    """
    own_regions = f"{REGION_ADAPTER}non_object_embedding" in tensors
    if own_regions:
        check_second_clip(tensors)
    prompt = prompt_sizes(tensors, REGION_ADAPTER if own_regions else QUERY_ADAPTER)
    clip, maskformer = _clip(tensors), maskformer_config(tensors)
    predictor = dataclasses.asdict(maskformer.predictor)
    system = dict(
        name="zsseg",
        clip=dataclasses.asdict(clip),
        maskformer=dict(
            backbone=dataclasses.asdict(maskformer.backbone),
            pixel_decoder=dataclasses.asdict(maskformer.pixel_decoder),
            layer=predictor.pop("layer"),
            predictor=predictor,
        ),
        **class_head_sizes(tensors),
        prefix=prompt.prefix,
        suffix=prompt.suffix,
        query_prompts=int(own_regions),
        mask_threshold=0.5,
    )
    notes, voc = {}, own_regions
    if _CLASS_WEIGHTS in tensors:
        weights = tensors[_CLASS_WEIGHTS]
        system["no_object_weight"] = round(float(weights[-1]), 6)
        notes["trained_classes"] = len(weights) - 1
        voc |= notes["trained_classes"] in _VOC_CLASSES
    system["ensemble_weight"] = 0.7 if voc else 0.8
    if own_regions:
        templates = "zsseg_single_and_name"
    else:
        templates = "{}" if prompt.width else _fixed_templates(clip)
    whole = _whole_pictures(512 if voc else 640)
    return model_sections(system, _IMAGENET, templates, whole, notes=notes)


def pixels_sections(tensors: Tensors) -> ConfigDict:
    """The sections of model.json for the baseline without proposals."""
    system = dict(
        name="zsseg_pixels",
        clip=dataclasses.asdict(_clip(tensors)),
        backbone=dataclasses.asdict(resnet_config(tensors, "backbone.")),
        pixel_decoder=dataclasses.asdict(pixel_decoder_config(tensors)),
        ensemble_weight=0.7,
    )
    # CLIP sees each picture at its own size.
    whole = _whole_pictures(640) | dict(patch=1)
    return model_sections(system, _IMAGENET, "zsseg_single", whole)


def prompt_learning_sections(tensors: Tensors) -> ConfigDict:
    """The sections of model.json for the first stage: CLIP with its prompt, pixel by pixel."""
    prompt = prompt_sizes(tensors)
    clip = _clip(tensors)
    system = dict(
        name="prompt_learning",
        clip=dataclasses.asdict(clip),
        prefix=prompt.prefix,
        suffix=prompt.suffix,
    )
    return model_sections(system, (CLIP_MEAN, CLIP_STD), "{}", windows(clip.image.image_size))


def derived_tensors(tensors: Tensors, description: Mapping) -> dict[str, np.ndarray]:
    """What zsseg's modules hold besides the tensors that are mapped, to be loaded strictly.

    Args:
      tensors: mapped, by source name.
      description: the content of model.json.

    Returns:
      The second CLIP, statistics of pixels, the tokens around prompts and, where the number of
      classes is known, their weights in the loss.
    """
    clip = f"{QUERY_ADAPTER}clip_model."
    derived = {}
    adapters = [QUERY_ADAPTER]
    if f"{REGION_ADAPTER}non_object_embedding" in tensors:
        adapters.append(REGION_ADAPTER)
        derived |= {
            name.replace(QUERY_ADAPTER, REGION_ADAPTER, 1): array
            for name, array in tensors.items()
            if name.startswith(clip)
        }
    embeddings = tensors[f"{clip}token_embedding.weight"]
    for adapter in adapters:
        if description["system"]["name"] != "prompt_learning":
            for part, values in (("mean", CLIP_MEAN), ("std", CLIP_STD)):
                # As there: a product of float32.
                scaled = np.float32(np.divide(values, 255)) * np.float32(255)
                derived[f"{adapter}pixel_{part}"] = scaled.reshape(1, 3, 1, 1)
        if prompt_sizes(tensors, adapter).width:
            for signal, token in _SIGNAL_TOKENS.items():
                derived[f"{adapter}prompt_learner.{signal}_signal"] = embeddings[token][None]
    if classes := description["notes"].get("trained_classes"):
        weights = np.ones(classes + 1, np.float32)
        weights[-1] = description["system"]["no_object_weight"]
        derived[_CLASS_WEIGHTS] = weights
    return derived


def _clip(tensors: Tensors) -> CLIPConfig:
    """Sizes of the queries' CLIP."""
    prefix = f"{QUERY_ADAPTER}clip_model."
    inside = (name for name in tensors if name.startswith(prefix))
    return clip_config({name.removeprefix(prefix): tensors[name] for name in inside})


def _fixed_templates(clip: CLIPConfig) -> str:
    """The best fixed templates that were published with ViT-B/16, the only ones with others."""
    patches = isinstance(clip.image, ViTConfig) and clip.image.patch_size == 16
    return "vild14" if patches else "zsseg_single"


def _whole_pictures(short_side: int) -> dict:
    """Fields of a protocol: whole pictures, resized as detectron2 does."""
    return dict(short_side=short_side, long_side=4 * short_side, antialias=True, crop=0, stride=0)
