"""The recipe of `configs/shapes/zegclip.py`, shortened to seconds."""

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
