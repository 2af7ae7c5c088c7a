"""What the recipes of zsseg share: networks, prompts, data and protocols.

Xu et al., "A Simple Baseline for Open-Vocabulary Semantic Segmentation with Pre-trained
Vision-language Model", ECCV 2022, and the authors' repository.
"""

from ml_collections import ConfigDict

from configs import common
from data_pipelines.datasets import find_dataset

BACKBONES = {
    "r50": dict(layers=(3, 4, 6, 3), stem="basic", stem_width=64, multi_grid=()),
    "r101c": dict(layers=(3, 4, 23, 3), stem="deeplab", stem_width=128, multi_grid=(1, 2, 4)),
}
# CLIPs that may look at the regions: width of the common space, image tower, text width.
CLIPS = {
    "vit_b16": (512, dict(image_size=224, patch_size=16, width=768, layers=12, heads=12), 512),
    "vit_b32": (512, dict(image_size=224, patch_size=32, width=768, layers=12, heads=12), 512),
    "rn50": (1024, dict(image_size=224, layers=(3, 4, 6, 3), width=64), 512),
    "rn101": (512, dict(image_size=224, layers=(3, 4, 23, 3), width=64), 512),
    "rn50x4": (640, dict(image_size=288, layers=(4, 6, 10, 6), width=80), 640),
    "rn50x16": (768, dict(image_size=384, layers=(6, 8, 18, 8), width=96), 768),
}
TEMPLATES = {
    "learned": "{}",
    "single": "zsseg_single",
    "vild": "vild14",
    "imagenet": "imagenet80",
    "own_regions": "zsseg_single_and_name",
}


def clip(name: str) -> ConfigDict:
    """Sizes of a CLIP."""
    embed_dim, image, width = CLIPS[name]
    text = dict(context=77, vocab_size=49408, width=width, layers=12, heads=width // 64)
    return ConfigDict(dict(embed_dim=embed_dim, image=image, text=text))


def maskformer(backbone: str) -> ConfigDict:
    """Sizes of MaskFormer."""
    return ConfigDict(
        dict(
            backbone=BACKBONES[backbone],
            pixel_decoder=dict(dim=256, mask_dim=256),
            layer=dict(dim=256, heads=8, hidden=2048, dropout=0.1),
            predictor=dict(queries=100, decoder_layers=6),
        )
    )


def data(
    dataset: str,
    train_split: str,
    crop: int,
    max_size: int,
    *,
    pictures: str = "all",
    labels: str = "",
) -> ConfigDict:
    """The section `data`: detectron2's augmentation, pictures of any size in evaluation.

    Args:
        dataset: its name in `data_pipelines.datasets`.
        train_split: of it.
        crop: side of what is cut out for training.
        max_size: bound on the longer side in training.
        pictures: 'seen' leaves out those without a pixel of a seen class.
        labels: the folder that `ovseg pseudo-labels` wrote; '' = the data set's own.
    """
    known = find_dataset(dataset)
    root = f"data/{known.folder}"
    train = dict(name="with_classes", dataset=dataset, root=root, split=train_split)
    return ConfigDict(
        dict(
            train=dict(
                source=dict(train, subset=pictures, labels=labels),
                transforms=common.maskformer_transforms(crop, max_size),
            ),
            eval=dict(source=dict(known.source, root=root, split="val"), transforms=()),
        )
    )


def evaluation(short_side: int, long_side: int) -> ConfigDict:
    """Whole pictures, resized as detectron2 does and scored by its evaluator of that time."""
    return common.evaluation(
        short_side=short_side,
        long_side=long_side,
        antialias=True,
        crop=0,
        stride=0,
        metrics="detectron2_legacy",
    )


def recipe(dataset: str, prompts: str, seen_only: bool = True) -> ConfigDict:
    """What all segmenters have; networks, data and the length of the run are to be added.

    Args:
        dataset: its name in `data_pipelines.datasets`.
        prompts: a key of `TEMPLATES`.
        seen_only: whether only the seen names compete in training.
    """
    config = common.base()
    config.image = ConfigDict(dict(mean=common.IMAGENET_MEAN, std=common.IMAGENET_STD))
    config.vocabulary = ConfigDict(
        dict(
            label_space=find_dataset(dataset).label_space,
            templates=TEMPLATES[prompts],
            tokenizer="clip",
            train_subset="seen" if seen_only else "all",
        )
    )
    config.optimizer = common.adamw(lr=1e-4, weight_decay=1e-4, clip_norm=0.01)
    config.schedule = common.schedule("poly", warmup_steps=0, power=0.9)
    return config


def segmenter(
    dataset: str,
    backbone: str,
    prompts: str,
    ensemble_weight: float,
    *,
    clip_name: str = "vit_b16",
    prompt_run: str = "",
    seen_only: bool = True,
) -> ConfigDict:
    """The second stage.

    Args:
        dataset: as `recipe`.
        backbone: a key of `BACKBONES`.
        prompts: a key of `TEMPLATES`.
        ensemble_weight: trust in queries where a name was seen.
        clip_name: a key of `CLIPS`.
        prompt_run: folder of the first stage, which holds CLIP as well; with learned prompts.
        seen_only: as `recipe`.
    """
    config = recipe(dataset, prompts, seen_only)
    config.system = ConfigDict(
        dict(
            name="zsseg",
            clip=clip(clip_name),
            maskformer=maskformer(backbone),
            class_hidden=1024,
            prefix=16 if prompt_run else 0,
            suffix=0,
            learn_prompt=False,
            query_prompts=int(prompts == "own_regions"),
            label_weight=1.0,
            mask_weight=20.0,
            dice_weight=1.0,
            no_object_weight=0.1,
            ensemble=True,
            ensemble_weight=ensemble_weight,
            mask_threshold=0.5,
            mask_expand=1.0,
            mask_fill="mean",
            region_size=224,
        )
    )
    config.pretrained = f"{prompt_run or f'models/clip_{clip_name}'},models/{backbone}"
    return config


def prompt(dataset: str, per_class: int, train_split: str = "train") -> ConfigDict:
    """The first stage of zsseg as published (Xu et al., ECCV 2022), save the length of the run.

    Args:
        dataset: its name in `data_pipelines.datasets`, with seen and unseen classes.
        per_class: crops of each seen class.
        train_split: of the data set.
    """
    known = find_dataset(dataset)
    root = f"data/{known.folder}"
    regions = dict(name="class_regions", dataset=dataset, root=root)
    select = dict(name="select", keys=("image", "label", "class_id"))
    # CLIP's mean in a space where the mean is 0, as published; (0.0, 0.0, 0.0) is the sounder fill.
    fill = tuple(value / 255 for value in common.CLIP_MEAN)
    config = common.base()
    config.system = ConfigDict(
        dict(name="prompt_learning", clip=clip("vit_b16"), prefix=16, suffix=0, fill=fill)
    )
    config.pretrained = "models/clip_vit_b16"
    config.image = ConfigDict(dict(mean=common.CLIP_MEAN, std=common.CLIP_STD))
    config.vocabulary = ConfigDict(
        dict(label_space=known.label_space, templates="{}", tokenizer="clip", train_subset="seen")
    )
    config.data = ConfigDict(
        dict(
            train=dict(
                source=dict(regions, split=train_split, subset="seen", per_class=per_class),
                transforms=(
                    dict(name="crop_to_class"),
                    dict(name="random_resized_crop", size=(244, 224)),
                    dict(name="flip"),
                    select,
                ),
            ),
            eval=dict(source=dict(known.source, root=root, split="val"), transforms=()),
            regions=dict(
                source=dict(regions, split="val"),
                transforms=(
                    dict(name="crop_to_class"),
                    dict(name="cut_center", size=(224, 224)),
                    select,
                ),
            ),
        )
    )
    config.optimizer = ConfigDict(
        dict(name="sgd", lr=0.02, momentum=0.9, weight_decay=5e-4, clip_norm=0.01)
    )
    config.schedule = common.schedule(
        "cosine", warmup_steps=100, warmup_ratio=0.005, warmup="constant"
    )
    # The dense read-out of CLIP with the prompt; what the prompt is chosen by are the regions.
    config.eval = common.evaluation(batch_size=32, short_side=336, crop=224, stride=112)
    return config
