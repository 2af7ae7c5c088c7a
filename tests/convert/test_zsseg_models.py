"""zsseg's checkpoints as files: small ones, there and back, and used at once."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from torch_files import archive, state_dict, tensor

import ovseg_jax
from configs.zsseg.coco_stuff import get_config as coco_stuff
from configs.zsseg.voc import get_config as voc
from ovseg_jax import models
from ovseg_jax.convert.converter import convert, convert_back
from ovseg_jax.convert.layouts import layout_named
from ovseg_jax.errors import UserError
from ovseg_jax.params import abstract_model
from ovseg_jax.systems import create_system
from ovseg_jax.weights import load_model_json, load_weights

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
    "learned": ("zsseg", SEGMENTER | dict(prefix=2, suffix=1, class_layers=3), VIT, 3, "{}"),
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
SIGNALS = {"start": 49406, "dot": 269, "end": 49407, "pad": 0}
PIXEL_MEAN = np.float32([122.77094268798828, 116.74601745605469, 104.09373474121094])
PIXEL_STD = np.float32([68.50053405761719, 66.63216400146484, 70.32315826416016])
QUERIES, REGIONS = "clip_adapter.", "_region_clip_adapter."


def clip_sizes(image: dict) -> dict:
    """Sizes of a CLIP with this image tower."""
    text = dict(context=77, vocab_size=49408, width=8, layers=1, heads=1)
    return dict(embed_dim=6, image=image, text=text)


def released(case: str) -> dict[str, np.ndarray]:
    """A checkpoint with random weights, and all that zsseg's modules hold besides."""
    layout, system, image, classes, _ = CASES[case]
    statistics = dict(mean=(0.0,) * 3, std=(1.0,) * 3)
    config = ConfigDict(
        dict(system=system | dict(clip=clip_sizes(image)), dtype="float32", image=statistics)
    )
    _, params, stats = abstract_model(lambda rngs: create_system(config, rngs))
    rng = np.random.default_rng(0)
    ours = {
        path: np.abs(rng.normal(0.0, 0.1, leaf.shape)).astype(np.float32)  # variances among them
        for path, leaf in {**params, **stats}.items()
    }
    theirs = layout_named(layout).name_map.outward(ours)
    adapters = [QUERIES]
    if case == "regions":
        adapters.append(REGIONS)
        theirs |= {
            name.replace(QUERIES, REGIONS): array
            for name, array in theirs.items()
            if name.startswith(f"{QUERIES}clip_model.")
        }
    for adapter in adapters:
        if case != "prompt":
            theirs[f"{adapter}pixel_mean"] = PIXEL_MEAN.reshape(1, 3, 1, 1)
            theirs[f"{adapter}pixel_std"] = PIXEL_STD.reshape(1, 3, 1, 1)
        if f"{adapter}prompt_learner.prefix_prompt" in theirs:
            table = theirs[f"{adapter}clip_model.token_embedding.weight"]
            for signal, token in SIGNALS.items():
                theirs[f"{adapter}prompt_learner.{signal}_signal"] = table[token : token + 1]
    if classes:
        theirs["criterion.empty_weight"] = np.float32([1.0] * classes + [0.1])
    return theirs


def write(path: Path, theirs: dict[str, np.ndarray]) -> str:
    """Writes a file as detectron2's checkpointer does."""
    weights = state_dict(**{name: tensor(a.copy("C")) for name, a in theirs.items()})
    optimizer = {"state": {}, "param_groups": []}
    path.write_bytes(archive({"model": weights, "optimizer": optimizer, "iteration": 7}))
    return str(path)


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(tmp_path, case):
    layout, system, _, _, templates = CASES[case]
    theirs = released(case)
    found = convert(write(tmp_path / "model.pth", theirs), tmp_path / "model")
    assert (found.layout, found.system) == (layout, system["name"])
    assert found.tensors + len(found.dropped) == len(theirs)
    description = load_model_json(tmp_path / "model")
    assert description["vocabulary"]["templates"] == templates
    for key in system.keys() - {"maskformer", "backbone", "pixel_decoder"}:
        assert description["system"][key] == system[key]
    count = convert_back(tmp_path / "model", tmp_path / "back.safetensors")
    back = load_weights(tmp_path / "back.safetensors")
    assert back.keys() == theirs.keys() and count == len(back)
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


@pytest.mark.parametrize(("classes", "rules"), [(15, (0.7, 512)), (156, (0.8, 640))])
def test_the_number_of_classes_tells_the_data_set_and_its_rules(tmp_path, classes, rules):
    theirs = released("fixed")
    theirs["criterion.empty_weight"] = np.float32([1.0] * classes + [0.1])
    convert(write(tmp_path / "model.pth", theirs), tmp_path / "model")
    description = load_model_json(tmp_path / "model")
    found = description["system"]["ensemble_weight"], description["eval"]["short_side"]
    assert found == rules


@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("fixed", "coco156_r101c_learned_prompt"),
        ("regions", "voc15_r101c"),
        ("prompt", "prompt_training"),
    ],
)
def test_these_files_have_published_names(case, name):
    """Numbers apart, all of them and no others, save for the prompt that this case lacks."""
    listed = json.loads(LISTS.read_text())[name]
    published = {unnumbered(pattern) for _, names in listed["tensors"] for pattern, _, _ in names}
    found = {unnumbered(name) for name in released(case)}
    assert found - published == set()
    assert all("prompt_learner" in name for name in published - found)


def unnumbered(name: str) -> str:
    return re.sub(r"\.[#\d]+\.", ".#.", name)


@pytest.mark.usefixtures("compiling_fast")
@pytest.mark.parametrize("case", ["regions", "pixels"])
def test_a_converted_model_segments(tmp_path, case):
    convert(write(tmp_path / "model.pth", released(case)), tmp_path / "model")
    segmenter = ovseg_jax.load(tmp_path / "model")
    found = segmenter.segment(PICTURE, "cat; grass, lawn; person in red", scores=True)
    assert found.labels.shape == (48, 64)
    assert np.isfinite(found.scores).all()
    if case == "regions":
        with pytest.raises(UserError, match="there are 1; give more templates"):
            segmenter.segment(PICTURE, "cat; grass", templates="a {}")


def test_a_prompt_without_clip_is_a_part_of_segmenters(tmp_path):
    theirs = {n: a for n, a in released("prompt").items() if "prompt_learner" in n}
    found = convert(write(tmp_path / "prompt.pth", theirs), tmp_path / "prompt")
    assert (found.layout, found.system) == ("zsseg's prompt", "a part of zsseg")
    assert load_model_json(tmp_path / "prompt")["prompt"] == dict(prefix=3, suffix=0, width=8)
    weights = load_weights(tmp_path / "prompt" / "model.safetensors")
    assert {path: value.shape for path, value in weights.items()} == {"prompt/prefix": (3, 8)}
    convert_back(tmp_path / "prompt", tmp_path / "back.safetensors")
    assert convert(str(tmp_path / "back.safetensors"), tmp_path / "again").layout == found.layout
    with pytest.raises(UserError, match=r"holds a part of a model \(zsseg's prompt\)"):
        ovseg_jax.load(tmp_path / "prompt")


@pytest.mark.parametrize("clip", [True, False])
def test_segmenters_start_from_a_converted_prompt(tmp_path, clip, monkeypatch):
    """As `pretrained` of the recipes names it."""

    def zeros(create, seed, without):  # to draw them takes much longer
        _, *parts = abstract_model(create)
        return [{path: np.zeros(leaf.shape, np.float32) for path, leaf in p.items()} for p in parts]

    monkeypatch.setattr(models, "initialize", zeros)
    theirs = released("prompt")
    if not clip:
        theirs = {name: array for name, array in theirs.items() if "prompt_learner" in name}
    convert(write(tmp_path / "prompt.pth", theirs), tmp_path / "prompt")
    expected = load_weights(tmp_path / "prompt" / "model.safetensors")
    assert any(path.startswith("clip/") for path in expected) == clip
    for get_config in (coco_stuff, voc):
        config = small(get_config())
        config.pretrained = str(tmp_path / "prompt")
        if not clip:
            with pytest.raises(
                UserError, match=r"do not train are not there \(clip/.*add the fold"
            ):
                models.initialize_model(config)
            continue
        _, params, _ = models.initialize_model(config)
        for path, value in expected.items():
            np.testing.assert_array_equal(params[path], value, err_msg=path)


def small(recipe: ConfigDict) -> ConfigDict:
    """A recipe with the networks of these tests."""
    system = recipe.system.to_dict() | SEGMENTER | dict(clip=clip_sizes(VIT), prefix=3)
    return ConfigDict(recipe.to_dict() | dict(system=system))


def test_what_a_file_is_called_where_it_does_not_belong(tmp_path):
    path = write(tmp_path / "model.pth", released("fixed"))
    with pytest.raises(UserError, match="is no CLIP but zsseg; leave out --system"):
        convert(path, tmp_path / "model", system="clip")
    theirs = released("fixed")
    lacking = "sem_seg_head.pixel_decoder.mask_features.weight"
    del theirs[lacking]
    with pytest.raises(UserError, match=f"looks like zsseg, but lacks {lacking}"):
        convert(write(tmp_path / "model.pth", theirs), tmp_path / "model")
    theirs = released("fixed")
    theirs["clip_adapter.clip_model.visual.projs"] = theirs["criterion.empty_weight"]
    with pytest.raises(UserError, match=r"no rule: clip_adapter\.clip_model\.visual\.projs"):
        convert(write(tmp_path / "model.pth", theirs), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("criterion.empty_weight", ()),
        ("sem_seg_head.predictor.query_embed.weight", (5,)),
        ("sem_seg_head.pixel_decoder.mask_features.weight", (8, 33, 3, 3)),  # 32 groups of 33
        ("backbone.res3.0.conv1.weight", (5,)),
        ("clip_adapter.clip_model.visual.positional_embedding", (0, 8)),
    ],
)
def test_shapes_that_make_no_network(tmp_path, name, shape):
    theirs = released("fixed") | {name: np.zeros(shape, np.float32)}
    np.savez(tmp_path / "model.npz", **theirs)
    with pytest.raises(UserError, match="looks like zsseg, but the shapes of its tensors make no"):
        convert(str(tmp_path / "model.npz"), tmp_path / "model")
    assert not (tmp_path / "model").exists()
