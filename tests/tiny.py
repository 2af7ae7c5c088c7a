"""Small enough for tests: the recipe of `configs/shapes/zegclip.py`, and MaskFormer's networks."""

from pathlib import Path

from ml_collections import ConfigDict

RECIPE = Path(__file__).parents[1] / "configs" / "shapes" / "zegclip.py"

OVERRIDES = {
    "pretrained": "",
    "vocabulary.tokenizer": "shapes",
    "system.clip.embed_dim": 16,
    "system.clip.image.image_size": 48,
    "system.clip.image.patch_size": 16,
    "system.clip.image.width": 16,
    "system.clip.image.layers": 2,
    "system.clip.image.heads": 2,
    "system.clip.text.width": 8,
    "system.clip.text.layers": 1,
    "system.clip.text.heads": 2,
    "system.prompt_tokens": 2,
    "system.prompt_depth": 1,
    "system.decoder_layers": 2,
    "system.decoder_heads": 2,
    "system.decoder_hidden": 16,
    "data.train.source.canvas": 48,
    "data.train.source.size": 64,
    "data.eval.source.canvas": 48,
    "data.eval.source.size": 8,
    "optimizer.name": "adamw",  # the other one takes long to compile
    "train.batch_size": 4,
    "train.steps": 4,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "eval.batch_size": 4,
    "eval.crop": 48,
    "eval.stride": 32,
    "eval.report_images": 2,
}

BACKBONE = {
    "layers": (1, 1, 1, 1),
    "stem_width": 8,
    "width": 4,
    "out_width": 8,
    "multi_grid": (),
}
PIXEL_DECODER = {"dim": 32, "mask_dim": 8}
MASKFORMER = {
    "backbone": BACKBONE,
    "pixel_decoder": PIXEL_DECODER,
    "layer": {"dim": 16, "heads": 2, "hidden": 16},
    "predictor": {"queries": 5, "decoder_layers": 2},
}
CLIP = {
    "embed_dim": 8,
    "image": {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "heads": 2},
    "text": {"context": 16, "vocab_size": 40, "width": 8, "layers": 1, "heads": 2},
}


def maskformer():
    """`MASKFORMER` as the network takes it."""
    from ovseg_jax.systems.zsseg import maskformer_config

    return maskformer_config(ConfigDict({"system": {"maskformer": MASKFORMER}}))


def clip():
    """`CLIP` as the network takes it."""
    from ovseg_jax.systems.clip import clip_config

    return clip_config(ConfigDict(CLIP))


def config(setting: str = "inductive", **overrides) -> ConfigDict:
    """The recipe; `train__steps=3` stands for `config.train.steps = 3`."""
    from configs.shapes.zegclip import get_config

    config = get_config(setting)
    more = {key.replace("__", "."): value for key, value in overrides.items()}
    config.update_from_flattened_dict(OVERRIDES | more)
    return config.lock()


def arguments(workdir, recipe=RECIPE, **overrides) -> list[str]:
    """The same as a command line, program name first."""
    more = {key.replace("__", "."): value for key, value in overrides.items()}
    flags = (f"--config.{key}={value}" for key, value in (OVERRIDES | more).items())
    return ["main", f"--config={recipe}", f"--workdir={workdir}", *flags]
