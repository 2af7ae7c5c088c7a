"""Pieces that several recipes share; every recipe file stays readable on its own."""

from ml_collections import ConfigDict

CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def adamw(lr: float, weight_decay: float, b2: float = 0.999, clip_norm: float = 0.0) -> ConfigDict:
    """AdamW with decoupled weight decay."""
    return ConfigDict(
        dict(
            name="adamw",
            lr=lr,
            b1=0.9,
            b2=b2,
            eps=1e-8,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
        )
    )


def muon(lr: float, muon_lr: float, pattern: str, weight_decay: float, b2: float) -> ConfigDict:
    """Orthogonalised momentum for the matrices whose path contains `pattern`, AdamW for the rest."""
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
) -> ConfigDict:
    """Learning-rate schedule; see `ovseg_jax.training.schedules`."""
    return ConfigDict(
        dict(
            name=name,
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


def shapes_protocol() -> ConfigDict:
    """Pictures of the embedded world go through the network whole, at their own size."""
    return ConfigDict(
        dict(
            batch_size=50, short_side=0, crop=0, stride=0, flip=False, report_images=24
        )
    )
