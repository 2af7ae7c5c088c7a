"""What the training-free recipes share: networks, prompts and protocols of each method.

The protocols are those of the authors' repositories. CLIP itself, MaskCLIP as re-implemented and
GEM are evaluated in ClearCLIP's; `maskclip_original` is MaskCLIP by its own authors' code.
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from configs import common

METHODS = (
    "clip",
    "maskclip",
    "sclip",
    "clearclip",
    "naclip",
    "gem",
    "proxyclip",
    "proxyclip_dinov2",
)
MASKCLIP_METHODS = ("maskclip_original", "maskclip_original_rn50")

# Whose words and protocol a method goes by.
FAMILIES = {
    "clip": "clearclip",
    "maskclip": "clearclip",
    "gem": "clearclip",
    "clearclip": "clearclip",
    "sclip": "sclip",
    "naclip": "naclip",
    "proxyclip": "proxyclip",
    "proxyclip_dinov2": "proxyclip",
    "maskclip_original": "maskclip",
    "maskclip_original_rn50": "maskclip",
}

# A picture below the window goes through at its own size: `patch` = 1 where windows are padded.
PROTOCOLS = {
    "sclip": dict(short_side=336, crop=224, stride=112, patch=16, logit_scale=40.0),
    "naclip": dict(short_side=336, crop=224, stride=112, patch=16, logit_scale=40.0, pamr_steps=10),
    "clearclip": dict(short_side=448, crop=448, stride=224, patch=1, logit_scale=50.0),
    "proxyclip": dict(short_side=336, crop=336, stride=112, patch=1, logit_scale=40.0),
    "maskclip": dict(short_side=512, crop=0, stride=0, logit_scale=1.0),
}

OPTIONS = {
    "naclip": dict(sigma=5.0),
    "gem": dict(depth=7, iterations=1),
    "proxyclip": dict(beta=1.2, gamma=3.0),
    # Both off by default: prompt denoising at 0.5, key smoothing at 1.0 where they are used.
    "maskclip_original": dict(prompt_denoising=0.0, key_smoothing=0.0),
}

DINO_B8 = dict(image_size=224, patch_size=8, width=768, layers=12, heads=12)
DINOV2_B14 = dict(
    image_size=518, patch_size=14, width=768, layers=12, heads=12, layer_scale=True, registers=4
)
RN50 = dict(image_size=224, layers=(3, 4, 6, 3), width=64)


def family(method: str, methods: tuple[str, ...]) -> str:
    """Whose words and protocol a method goes by.

    Raises:
        ValueError: the method is none of `methods`, those that a data set is evaluated with.
    """
    if method not in methods:
        raise ValueError(f"method {method} is none of {', '.join(methods)}")
    return FAMILIES[method]


def recipe(method: str, label_space: str, source: Mapping, **changes) -> ConfigDict:
    """A method by its authors' protocol on a data set.

    Args:
        method: one of `METHODS` or `MASKCLIP_METHODS`.
        label_space: the words.
        source: pictures and labels; see `data_pipelines.sources`.
        **changes: what differs from the method's usual protocol on this data set; `logit_scale`
            or a field of the section `eval`.
    """
    family = FAMILIES[method]
    protocol = PROTOCOLS[family] | changes
    config = common.base()
    config.system = system(method, protocol.pop("logit_scale"))
    config.pretrained = weights(method)
    maskclip = family == "maskclip"
    mean, std = (
        (common.IMAGENET_MEAN, common.IMAGENET_STD)
        if maskclip
        else (common.CLIP_MEAN, common.CLIP_STD)
    )
    config.image = ConfigDict(dict(mean=mean, std=std))
    config.vocabulary = ConfigDict(
        dict(
            label_space=label_space,
            templates="maskclip85" if maskclip else "imagenet80",
            tokenizer="clip",
            train_subset="",
        )
    )
    config.data = ConfigDict(dict(eval=dict(source=source, transforms=())))
    whole = dict(patch=16, pad_patches=True) if method == "maskclip_original" else dict(patch=1)
    config.eval = evaluation(**(whole if maskclip else {}), **protocol)
    return config


def system(method: str, logit_scale: float) -> ConfigDict:
    """The section `system`."""
    name = method.removesuffix("_dinov2").removesuffix("_rn50")
    config = ConfigDict(
        dict(
            name="training_free",
            clip=common.vit_b16(224),
            method=name,
            options=OPTIONS.get(name, {}),
            logit_scale=logit_scale,
            window_multiple={"clearclip": 16, "proxyclip": 56}.get(FAMILIES[method], 1),
        )
    )
    if name == "proxyclip":
        config.proxy = ConfigDict(DINOV2_B14 if method.endswith("_dinov2") else DINO_B8)
    if method == "maskclip_original":
        config.clip.image.update(activation="gelu", norm_eps=1e-6)
    if method == "maskclip_original_rn50":
        config.clip.embed_dim = 1024
        config.clip.image = ConfigDict(RN50)
    return config


def weights(method: str) -> str:
    """Folders of the converted checkpoints."""
    folders = {
        "proxyclip": "models/clip_vit_b16,models/dino_vitb8",
        "proxyclip_dinov2": "models/clip_vit_b16,models/dinov2_vitb14_reg4",
        "maskclip_original_rn50": "models/clip_rn50",
    }
    return folders.get(method, "models/clip_vit_b16")


def evaluation(**fields) -> ConfigDict:
    """The section `eval`; see `ovseg_jax.inference.Protocol`."""
    usual = dict(
        long_side=2048,
        pad_patches=False,
        pamr_steps=0,
        pamr_dilations=(8, 16),
        area=0.0,
        threshold=0.0,
    )
    return common.evaluation(**usual | fields)
