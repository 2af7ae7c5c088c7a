"""zsseg's checkpoints as files: small ones, there and back, and used at once."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from torch_files import archive, state_dict, tensor

import ovseg_jax
from configs.zsseg.coco_stuff import get_config as coco_stuff
from configs.zsseg.voc import get_config as voc
from ovseg_jax.cli import main
from ovseg_jax.convert.converter import convert, convert_back
from ovseg_jax.convert.layouts import layout_named
from ovseg_jax.errors import UserError
from ovseg_jax.models import initialize_model
from ovseg_jax.params import initialize
from ovseg_jax.systems import create_system
from ovseg_jax.weights import load_model_json, load_weights, save_weights

LISTS = Path(__file__).parents[1] / "golden" / "zsseg" / "state_dicts.json"
PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)

VIT = dict(image_size=32, patch_size=16, width=8, layers=1, heads=1)
RESNET = dict(image_size=64, layers=(1, 1, 1, 1), width=8)
BACKBONE = dict(
    layers=(1, 1, 1, 3),
    stem="deeplab",
    stem_width=4,
    width=2,
    out_width=6,
    multi_grid=(1, 2, 4),
)
MASKFORMER = dict(
    backbone=BACKBONE,
    pixel_decoder=dict(dim=32, mask_dim=8),
    layer=dict(dim=32, heads=1, hidden=12),
    predictor=dict(queries=5, decoder_layers=2),
)
SEGMENTER = dict(name="zsseg", maskformer=MASKFORMER, class_hidden=12)
PIXELS = dict(name="zsseg_pixels", backbone=BACKBONE, pixel_decoder=MASKFORMER["pixel_decoder"])
# Layout, system, CLIP's image tower, classes in training, what model.json is to say.
CASES = {
    "fixed": ("zsseg", SEGMENTER, VIT, 3, "vild14"),
    "learned": ("zsseg", SEGMENTER | dict(prefix=2, suffix=1), VIT, 3, "{}"),
    "regions": (
        "zsseg with a second adapter",
        SEGMENTER | dict(prefix=2, query_prompts=1, ensemble_weight=0.7),
        VIT,
        2,
        "zsseg_single_and_name",
    ),
    "resnet": ("zsseg (CLIP with a ResNet)", SEGMENTER, RESNET, 3, "zsseg_single"),
    "pixels": ("zsseg's baseline of pixels", PIXELS, VIT, 0, "zsseg_single"),
    "prompt": ("zsseg's prompt learning", dict(name="prompt_learning", prefix=3), VIT, 0, "{}"),
}
