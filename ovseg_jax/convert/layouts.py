"""The foreign layouts that are known, and what a checkpoint in one of them becomes."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from ovseg_jax.convert.clip import CLIP_MAP, CLIP_RESNET_MAP, clip_config
from ovseg_jax.convert.clip_hf import CLIP_HF_MAP, clip_hf_config
from ovseg_jax.convert.name_map import NameMap
from ovseg_jax.convert.resnet import (
    CAFFE2_MAP,
    RESNET_MAP,
    TARGET,
    TORCHVISION_MAP,
    caffe2_config,
    resnet_config,
    torchvision_config,
)
from ovseg_jax.convert.vit import DINO_MAP, dino_config
from ovseg_jax.convert.zsseg import (
    PROMPT_MAP,
    QUERY_ADAPTER,
    REGION_ADAPTER,
    prompt_map,
    segmenter_map,
)
from ovseg_jax.convert.zsseg_models import (
    PromptSizes,
    derived_tensors,
    pixels_sections,
    prompt_learning_sections,
    prompt_sizes,
    segmenter_sections,
)
from ovseg_jax.errors import UserError, nearest
from ovseg_jax.networks.clip import CLIPConfig
from ovseg_jax.networks.resnet import ResNetConfig
from ovseg_jax.networks.vit import DinoConfig

Tensors = Mapping[str, np.ndarray]
# Of a network, or all sections of model.json (and, in `notes`, what else is to be kept there).
Sizes = CLIPConfig | DinoConfig | ResNetConfig | PromptSizes | ConfigDict


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint, read but not interpreted.

    Attributes:
      tensors: by name.
      description: what config.json or open_clip_config.json beside it says; {} without one.
      activation: of the transformers, where the user gave it; '' otherwise.
    """

    tensors: Tensors
    description: Mapping
    activation: str = ""


@dataclasses.dataclass(frozen=True)
class Part:
    """What a network becomes that is no model of its own.

    Attributes:
      name: of its sizes in the configs of the systems that have it.
      systems: those systems, for people.
      prefix: of its parameters in them.
    """

    name: str
    systems: str
    prefix: str


@dataclasses.dataclass(frozen=True)
class Layout:
    """A way of naming a system's tensors.

    Attributes:
      name: for messages and model.json.
      signature: names that a checkpoint in this layout has.
      name_map: their names to ours.
      config: sizes of the networks.
      prefix: of the text tower's names, which are otherwise as without it.
      part: set where the checkpoint becomes a part of other models.
      derived: dropped tensors that follow from the others (by source name) and model.json.
    """

    name: str
    signature: tuple[str, ...]
    name_map: NameMap
    config: Callable[[Source], Sizes]
    prefix: str = ""
    part: Part | None = None
    derived: Callable[[Tensors, Mapping], Tensors] = lambda tensors, description: {}

    def fits(self, tensors: Tensors) -> bool:
        """Whether all names of the signature are there."""
        return all(name in tensors for name in self.signature)

    def strip(self, tensors: Tensors) -> Tensors:
        """The tensors without the layout's prefix."""
        return {name.removeprefix(self.prefix): array for name, array in tensors.items()}

    def unstrip(self, tensors: Tensors) -> Tensors:
        """Inverse of `strip`."""
        if not self.prefix:
            return tensors
        return {
            name if name.startswith("visual.") or name == "logit_scale" else self.prefix + name: a
            for name, a in tensors.items()
        }


def _openai_config(source: Source) -> CLIPConfig:
    activation = source.activation or _told_activation(source)
    tower = dict(activation=activation)
    return clip_config(source.tensors, image=tower, text=tower)


def _told_activation(source: Source) -> str:
    """The activation, as far as the files tell: the tensors do not."""
    if "input_resolution" in source.tensors:  # only OpenAI's own archives hold it
        return "quick_gelu"
    if "model_cfg" in source.description:  # open_clip_config.json
        return "quick_gelu" if source.description["model_cfg"].get("quick_gelu") else "gelu"
    raise UserError(
        "the checkpoint does not tell its activation; add --activation=quick_gelu for OpenAI's "
        "weights and others trained with QuickGELU, --activation=gelu for the other OpenCLIP ones."
    )


def _hf_config(source: Source) -> CLIPConfig:
    if "vision_config" not in source.description:
        raise UserError(
            "the checkpoint has the names of transformers, whose sizes stand in config.json; "
            "give the folder that holds both."
        )
    return clip_hf_config(source.description)


def _from_tensors(config: Callable[[Tensors], Sizes]) -> Callable[[Source], Sizes]:
    return lambda source: config(source.tensors)


def _zsseg_layouts(kind: str, tower: str, clip: NameMap) -> tuple[Layout, ...]:
    """What the stages of zsseg save, around one kind of CLIP.

    Args:
      kind: of CLIP, behind the names of the layouts.
      tower: a tensor that only this kind has.
      clip: its map.
    """
    inside = f"{QUERY_ADAPTER}clip_model.{tower}"
    queries = "sem_seg_head.predictor.query_embed.weight"
    return tuple(
        Layout(
            name + kind,
            (inside, *signature),
            name_map,
            _from_tensors(sections),
            derived=derived_tensors,
        )
        for name, signature, name_map, sections in (
            (
                "zsseg with a second adapter",
                (queries, f"{REGION_ADAPTER}non_object_embedding"),
                segmenter_map(own_prompts=True, clip=clip),
                segmenter_sections,
            ),
            ("zsseg", (queries,), segmenter_map(clip=clip), segmenter_sections),
            (
                "zsseg's baseline of pixels",
                ("sem_seg_head.predictor.weight",),
                segmenter_map(clip=clip),
                pixels_sections,
            ),
            (
                "zsseg's prompt learning",
                (f"{QUERY_ADAPTER}prompt_learner.start_signal",),
                prompt_map(clip),
                prompt_learning_sections,
            ),
        )
    )


_TEXT = ("token_embedding.weight", "text_projection", "logit_scale")
_BACKBONE = Part("backbone", "MaskFormer", TARGET)
LAYOUTS = (
    Layout(
        "CLIP, OpenAI and OpenCLIP",
        ("visual.proj", "visual.class_embedding", *_TEXT),
        CLIP_MAP,
        _openai_config,
    ),
    Layout(
        "CLIP with a ResNet, OpenAI and OpenCLIP",
        ("visual.attnpool.positional_embedding", *_TEXT),
        CLIP_RESNET_MAP,
        _openai_config,
    ),
    Layout(
        "CLIP with a text tower of its own, OpenCLIP",
        ("visual.proj", "text.token_embedding.weight", "text.text_projection", "logit_scale"),
        CLIP_MAP,
        _openai_config,
        prefix="text.",
    ),
    Layout(
        "CLIP, Hugging Face",
        ("vision_model.embeddings.class_embedding", "visual_projection.weight", "logit_scale"),
        CLIP_HF_MAP,
        _hf_config,
    ),
    Layout(
        "DINO and DINOv2",
        ("cls_token", "pos_embed", "patch_embed.proj.bias", "blocks.0.attn.qkv.bias", "norm.bias"),
        DINO_MAP,
        _from_tensors(dino_config),
        part=Part("proxy", "ProxyCLIP", "proxy/"),
    ),
    Layout(
        "ResNet, detectron2",
        ("stem.conv1.weight", "res2.0.conv3.weight", "res5.0.shortcut.norm.running_var"),
        RESNET_MAP,
        _from_tensors(resnet_config),
        part=_BACKBONE,
    ),
    Layout(
        "ResNet, torchvision",
        ("conv1.weight", "layer1.0.conv3.weight", "layer4.0.downsample.1.running_var"),
        TORCHVISION_MAP,
        _from_tensors(torchvision_config),
        part=_BACKBONE,
    ),
    Layout(
        "ResNet, Caffe2",
        ("conv1_w", "res_conv1_bn_s", "res2_0_branch2c_w", "res5_0_branch1_bn_b"),
        CAFFE2_MAP,
        _from_tensors(caffe2_config),
        part=_BACKBONE,
    ),
    *_zsseg_layouts("", "visual.proj", CLIP_MAP),
    *_zsseg_layouts(
        " (CLIP with a ResNet)", "visual.attnpool.positional_embedding", CLIP_RESNET_MAP
    ),
    *(
        Layout(
            "zsseg's prompt",
            (f"{QUERY_ADAPTER}prompt_learner.{side}_prompt",),
            PROMPT_MAP,
            _from_tensors(prompt_sizes),
            part=Part("prompt", "zsseg", "prompt/"),
        )
        for side in ("prefix", "suffix")
    ),
)


def find_layout(tensors: Tensors, origin: str) -> Layout:
    """The layout of a checkpoint, by the names of its tensors.

    Raises:
      UserError: it is in none of `LAYOUTS`.
    """
    for layout in LAYOUTS:
        if layout.fits(tensors):
            return layout
    known = "; ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
    first = ", ".join(list(tensors)[:3])
    raise UserError(
        f"{origin} is in no layout that is known here ({len(tensors)} tensors, first {first}); "
        f"known are: {known}."
    )


def layout_named(name: str) -> Layout:
    """The layout that a converted model came from.

    Raises:
      UserError: none has that name, as where another version converted it.
    """
    for layout in LAYOUTS:
        if layout.name == name:
            return layout
    known = (layout.name for layout in LAYOUTS)
    raise UserError(f"model.json names an unknown layout {name!r}; {nearest(name, known)}")
