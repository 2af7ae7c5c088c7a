"""Pieces that several recipes share; every recipe file stays readable on its own."""

from ml_collections import ConfigDict

from ovseg_jax.pictures import CLIP_MEAN as CLIP_MEAN
from ovseg_jax.pictures import CLIP_STD as CLIP_STD
from ovseg_jax.pictures import IMAGENET_MEAN as IMAGENET_MEAN
from ovseg_jax.pictures import IMAGENET_STD as IMAGENET_STD


def adamw(
    lr: float, weight_decay: float, b2: float = 0.999, clip_norm: float = 0.0, eps: float = 1e-8
) -> ConfigDict:
    """AdamW with decoupled weight decay."""
    return ConfigDict(
        dict(
            name="adamw",
            lr=lr,
            b1=0.9,
            b2=b2,
            eps=eps,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
        )
    )


def muon(lr: float, muon_lr: float, pattern: str, weight_decay: float, b2: float) -> ConfigDict:
    """Orthogonalised momentum for matrices whose path contains `pattern`, AdamW for the rest."""
    config = adamw(lr, weight_decay, b2=b2, clip_norm=1.0)
    config.name = "muon"
    config.muon = ConfigDict(dict(lr=muon_lr, pattern=pattern))
    return config


def schedule(
    name: str,
    warmup_steps: int,
    warmup_ratio: float = 1e-6,
    power: float = 0.9,
    min_lr: float = 0.0,
    warmup: str = "linear",
) -> ConfigDict:
    """Learning-rate schedule; see `ovseg_jax.training.schedules`."""
    return ConfigDict(
        dict(
            name=name,
            warmup=warmup,
            warmup_steps=warmup_steps,
            warmup_ratio=warmup_ratio,
            power=power,
            min_lr=min_lr,
        )
    )


def base() -> ConfigDict:
    """What every run has, with the values that a recipe rarely changes."""
    config = ConfigDict()
    config.seed = 0
    config.dtype = "float32"  # compute type: float32 (CPU, parity) or bfloat16 (TPU, GPU)
    config.mesh = ConfigDict(dict(fsdp=1))
    config.unreadable = "raise"  # missing and damaged pictures: 'raise', or 'skip' and name them
    config.tensorboard = False
    return config


def train(batch_size: int, steps: int, eval_every: int = 0) -> ConfigDict:
    """Length of a run and how often it reports; 0 = no evaluation before the end."""
    return ConfigDict(
        dict(
            batch_size=batch_size,
            steps=steps,
            log_every=50,
            eval_every=eval_every or steps,
            checkpoint_every=500,
            keep_checkpoints=2,
            ema_decay=0.0,
        )
    )


def shapes_eval(split: str = "test", size: int = 500) -> ConfigDict:
    """Scenes of the embedded world that are only looked at in evaluation."""
    return ConfigDict(
        dict(source=dict(name="shapes", split=split, size=size, canvas=96), transforms=())
    )


def evaluation(**fields) -> ConfigDict:
    """The section `eval`: what recipes rarely change, and the fields of `inference.Protocol`."""
    usual = dict(
        batch_size=1,  # pictures that each device predicts at once
        flip=False,
        dataset="",  # another data set than the recipe's, by its name in data_pipelines.datasets
        root="",  # where that lies; '' = its usual folder below data/
        # mmseg, detectron2_legacy or detectron2_current; where a picture asks for one class (few-
        # shot folds), fusioner or hsnet; '' = the first of those that go with the data
        metrics="",
        background_words=("others",),  # what a single class competes with, as in LSeg
        # What is known beforehand, to tell kinds of errors apart: '' nothing, 'vocabulary' which
        # classes a picture holds, 'masks' what belongs together, 'proposals' the names of proposed
        # masks; see ovseg_jax.evaluation.oracles
        oracle="",
        boundary=0.0,  # width over diagonal (usually 0.02) of boundaries for their IoU; 0 = none
        report_images=24,
        training_free=False,
    )
    return ConfigDict(usual | fields)


def shapes_protocol(training_free: bool) -> ConfigDict:
    """One window for a picture of the embedded world, several for larger ones."""
    return evaluation(batch_size=50, short_side=0, crop=96, stride=64, training_free=training_free)


def vit_b16(image_size: int = 512) -> ConfigDict:
    """CLIP ViT-B/16 with its text tower; positions stand for a picture of `image_size`."""
    return ConfigDict(
        dict(
            embed_dim=512,
            image=dict(image_size=image_size, patch_size=16, width=768, layers=12, heads=12),
            text=dict(context=77, vocab_size=49408, width=512, layers=12, heads=8),
        )
    )


def mmseg_transforms(crop: int = 512, box: tuple[int, int] = (2048, 512)) -> tuple[dict, ...]:
    """Augmentation of mmsegmentation's recipes, ImageNet statistics."""
    return (
        dict(name="resize_ratio", box=box, ratio_range=(0.5, 2.0)),
        dict(name="random_crop", size=(crop, crop), cat_max_ratio=0.75),
        dict(name="flip", probability=0.5),
        dict(name="photometric"),
        dict(name="normalize", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        dict(name="pad", size=(crop, crop)),
    )


def maskformer_transforms(crop: int = 640, max_size: int = 2560, max_classes: int = 64) -> tuple:
    """Augmentation and targets of MaskFormer, zsseg and SAN."""
    return (
        dict(
            name="resize_crop",
            short_edges=tuple(range(320, 961, 64)),
            max_size=max_size,
            size=(crop, crop),
        ),
        dict(name="color_ssd"),
        dict(name="flip", probability=0.5),
        dict(name="pad", size=(crop, crop), image_value=128),
        dict(name="present_classes", max_classes=max_classes),
    )


def lsj_transforms(crop: int = 1024, max_classes: int = 64) -> tuple[dict, ...]:
    """Large scale jittering of FC-CLIP."""
    return (
        dict(name="flip", probability=0.5),
        dict(name="large_scale_jitter", size=(crop, crop), scale=(0.1, 2.0)),
        dict(name="pad", size=(crop, crop), image_value=128),
        dict(name="present_classes", max_classes=max_classes),
    )


def sometimes(*steps: dict, probability: float = 0.5) -> dict:
    """Steps that run together or not at all."""
    return dict(name="choose", branches=(steps, ()), probabilities=(probability, 1 - probability))


def fusioner_transforms(jitter: float, angle: float, size: int = 224) -> tuple[dict, ...]:
    """Augmentation of Fusioner; on PASCAL jitter 0.5 and angle 20, on COCO 0.2 and 10."""
    part = dict(name="random_resized_crop", size=(size, size), area=(0.5, 1.0), antialias=False)
    short_side = dict(name="resize_ratio", box=(2**20, size), ratio_range=(1.0, 1.0))
    crop = dict(name="random_crop", size=(size, size), cat_max_ratio=1.0)
    return (
        dict(name="choose", branches=((part,), (short_side, crop)), probabilities=(0.5, 0.5)),
        sometimes(
            sometimes(dict(name="color_jitter", amount=jitter)),
            sometimes(dict(name="gaussian_noise", variance=(10.0, 50.0))),
            dict(name="flip", probability=0.5),
            sometimes(dict(name="random_affine", shift=20.0)),
            sometimes(dict(name="shift_scale_rotate", shift=0.1, scale=0.1, angle=angle)),
        ),
    )


def deit_transforms(size: int = 224) -> tuple[dict, ...]:
    """Augmentation of GroupViT and of OVSegmentor's first stage, ImageNet statistics."""
    return (
        dict(name="random_resized_crop", size=(size, size), area=(0.08, 1.0)),
        dict(name="flip", probability=0.5),
        dict(name="rand_augment"),
        dict(name="normalize", mean=IMAGENET_MEAN, std=IMAGENET_STD),
        dict(name="random_erasing", probability=0.25),
    )


def slide_512() -> ConfigDict:
    """Windows of 512 pixels, 426 apart, of pictures whose short side is 512."""
    return evaluation(short_side=512, crop=512, stride=426)


def zegclip(setting: str, prompt_tokens: int, seen_only: bool) -> ConfigDict:
    """ZegCLIP as published (Zhou et al., CVPR 2023), save data and length of the run.

    Args:
        setting: 'inductive', 'transductive' or 'full'.
        prompt_tokens: 10 for VOC, 100 for COCO-Stuff.
        seen_only: whether only the seen names compete in training.
    """
    config = base()
    config.system = ConfigDict(
        dict(
            name="zegclip",
            clip=vit_b16(512),
            setting=setting,
            prompt_tokens=prompt_tokens,
            prompt_depth=11,
            decoder_layers=3,
            decoder_heads=8,
            decoder_hidden=2048,
            relationship_descriptor=True,
            input_scale=1.0,
            dropout=0.1,
            mask_weight=100.0,
            dice_weight=1.0,
            ignore_unlabelled=False,
            calibration=0.1,
            class_chunk=16,
        )
    )
    config.pretrained = ""
    config.image = ConfigDict(dict(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    config.vocabulary = ConfigDict(
        dict(
            label_space="",
            templates="",
            tokenizer="clip",
            train_subset="seen" if seen_only else "all",
        )
    )
    # Base rate 2e-5; every trained parameter matches a factor of 10, norms and prompts included.
    config.optimizer = adamw(lr=2e-4, weight_decay=0.01)
    config.schedule = schedule("poly", warmup_steps=1500, warmup_ratio=1e-6, power=0.9, min_lr=1e-6)
    config.eval = slide_512()
    return config
