"""From a config to the parts that the loops share: model, parameters, vocabulary, data."""

import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.inference import Model, encode_vocabulary
from ovseg_jax.networks.positions import resize_positions
from ovseg_jax.params import Flat, abstract_model, initialize, merge_model
from ovseg_jax.systems import create_system
from ovseg_jax.systems.system import System
from ovseg_jax.text.label_space import LabelSpace, load_label_space
from ovseg_jax.text.templates import load_templates
from ovseg_jax.text.tokenizer import LetterTokenizer, Tokenizer, copy_tokenizer, load_tokenizer
from ovseg_jax.text.vocabulary import Vocabulary, build_vocabulary
from ovseg_jax.training.checkpoints import (
    choose_step,
    read_config,
    restore_parameters,
)
from ovseg_jax.training.logs import say
from ovseg_jax.training.partition import split_trainable
from ovseg_jax.weights import check_fit, load_model_json, load_weights, save_weights

ASSETS = Path(__file__).parent / "assets"
RANDOM_WARNING = (
    "the weights that do not train are RANDOM because config.pretrained is empty: figures and "
    "pictures mean nothing; name a model folder there to start from trained weights"
)
WEIGHTS = "model.safetensors"  # of a model folder: all of them
MODEL_SECTIONS = ("system", "dtype", "image", "vocabulary", "eval")


# --- Folders of models -----------------------------------------------------------------------


def model_folder(name: str) -> Path:
    """The folder of a packaged model ('shapes_clip'), or the path that was given."""
    packaged = ASSETS / name
    return packaged if packaged.is_dir() else Path(name)


def load_folder_weights(folder: Path, checkpoint: str = "latest") -> Flat:
    """All parameters of a run or model folder: its safetensors files and a checkpoint, if any."""
    if not folder.is_dir():
        raise UserError(
            f"no model folder at {folder}; check the path, or train or convert one first."
        )
    weights: Flat = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_weights(file)
    if choose_step(folder, checkpoint) is not None:
        weights |= restore_parameters(folder, checkpoint)
    if not weights:
        raise UserError(f"{folder} holds no weights; train or convert a model into it first.")
    return {path: _in_float32(value) for path, value in weights.items()}


def _in_float32(array: np.ndarray) -> np.ndarray:
    """Converted checkpoints keep the half precision of their source; parameters are float32."""
    return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def write_model_files(folder: Path, config: ConfigDict, notes: Mapping | None = None) -> None:
    """Writes ``model.json`` and the tokenizer's files: all but the weights of a model folder."""
    sections = ConfigDict({key: config[key] for key in MODEL_SECTIONS})
    description = json.loads(sections.to_json_best_effort())
    if notes:
        description["notes"] = dict(notes)
    atomic_write(folder / "model.json", json.dumps(description, indent=1).encode() + b"\n")
    spec = config.vocabulary.tokenizer
    if spec == "shapes":
        create_tokenizer(config).save(folder)
    elif spec != "letters":
        copy_tokenizer(spec if spec == "clip" else model_folder(spec), folder)


def model_notes(folder: Path) -> dict:
    """What a model folder says about itself; ``warning`` is for everyone who uses it."""
    return load_model_json(folder).get("notes", {})


def warning_notes(config: ConfigDict, frozen: Mapping) -> dict:
    """Notes of a run whose frozen weights nobody ever trained; says so, too."""
    if config.pretrained or not frozen:
        return {}
    say(f"warning: {RANDOM_WARNING}")
    return {"warning": RANDOM_WARNING}


def export_model(run: Path, folder: Path) -> None:
    """Makes a model folder of a run: all weights in one file, and a note of how they came about.

    Raises:
        UserError: `run` is not the folder of a run, or holds no weights.
    """
    config = ConfigDict(read_config(run))
    weights = load_folder_weights(run)
    notes = {key: json.loads(config[key].to_json_best_effort()) for key in ("data", "train")}
    notes |= {"seed": config.seed, "pretrained": config.pretrained, **model_notes(run)}
    if (run / "result.json").is_file():
        notes["result"] = json.loads((run / "result.json").read_text())
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, weights)
    write_model_files(folder, config, notes)


# --- Model and parameters --------------------------------------------------------------------


def _creator(config: ConfigDict):
    return lambda rngs: create_system(config, rngs)


def _fit_positions(weights: Flat, shapes: Mapping) -> Flat:
    """Resizes image position tables to the model's grid: bilinear, as ZegCLIP does on load."""

    def fit(path, value):
        wanted = shapes[path].shape if path in shapes else value.shape
        if not path.endswith("image/positions") or value.shape == wanted:
            return value
        side = int((wanted[0] - 1) ** 0.5)
        return np.asarray(resize_positions(value, (side, side), method="bilinear"))

    return {path: fit(path, value) for path, value in weights.items()}


def load_pretrained(shapes: Flat, folder: Path) -> Flat:
    """The parameters (and statistics) of a model folder, as a model takes them.

    Args:
        shapes: of the parameters (and statistics) of the model.
        folder: of a run or a model.

    Raises:
        UserError: the folder holds parameters that the model lacks, or of another shape.
    """
    weights = _fit_positions(load_folder_weights(folder), shapes)
    check_fit({path: shapes[path] for path in weights if path in shapes}, weights, str(folder))
    return weights


def initialize_model(config: ConfigDict) -> tuple[nnx.GraphDef, Flat, Flat]:
    """Builds graph, parameters and other variables; pretrained ones where the config names any.

    `config.pretrained` is a model folder, or several with commas between them.

    Raises:
        UserError: a folder that does not fit, or parameters that do not train in none of them.
    """
    graphdef, *shapes = abstract_model(_creator(config))
    loaded: Flat = {}
    for name in filter(None, config.pretrained.split(",")):
        loaded |= load_pretrained(shapes[0] | shapes[1], model_folder(name.strip()))
    if loaded:
        _check_frozen(config, merge_model(graphdef, *shapes), shapes[0].keys() - loaded.keys())
    drawn = initialize(_creator(config), config.seed, without=loaded.keys())
    params, stats = (
        {path: loaded[path] if path in loaded else random[path] for path in part}
        for part, random in zip(shapes, drawn, strict=True)
    )
    return graphdef, params, stats


def _check_frozen(config: ConfigDict, system: System, random: Collection[str]) -> None:
    """Raises a `UserError` if something stays random that never trains and that scores depend on.

    Without any folder the whole model is random, which `warning_notes` says.
    """
    _, frozen = split_trainable(dict.fromkeys(random), system.param_groups())
    if lost := sorted(path for path in frozen if not path.startswith(system.idle)):
        raise UserError(
            f"config.pretrained names {config.pretrained}, but {len(lost)} parameters that do not "
            f"train are not there ({', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}); add the "
            "folder that holds them, with a comma."
        )


def create_model(config: ConfigDict, graphdef: nnx.GraphDef, params: Flat, stats: Flat) -> Model:
    """Bundles a model with its pixel statistics for inference."""
    mean, std = (np.asarray(config.image[key], np.float32) for key in ("mean", "std"))
    return Model(graphdef, params, stats, mean, std)


def load_model(config: ConfigDict, folder: Path, checkpoint: str = "latest") -> Model:
    """Loads the model that a run or model folder holds.

    Args:
        config: of the model.
        folder: of a run or a model.
        checkpoint: 'latest' or 'previous', of a run.

    Raises:
        UserError: no weights, or those of an architecture other than the config's.
    """
    graphdef, params, stats = abstract_model(_creator(config))
    weights = load_folder_weights(folder, checkpoint)
    check_fit({**params, **stats}, weights, str(folder))
    params, stats = ({path: weights[path] for path in part} for part in (params, stats))
    if warning := model_notes(folder).get("warning"):
        say(f"warning: {warning}")
    return create_model(config, graphdef, params, stats)


def load_run(config: ConfigDict, workdir: Path, checkpoint: str = "latest") -> Model:
    """Loads the model of a run or model folder; a `UserError` where nothing was trained yet."""
    load_model_json(workdir)
    whole = (workdir / WEIGHTS).is_file()
    trained = whole or choose_step(workdir, checkpoint) is not None
    if not trained and abstract_system(config).param_groups():
        raise UserError(f"{workdir} holds no checkpoint; train first, or give another --workdir.")
    return load_model(config, workdir, checkpoint)


def abstract_system(config: ConfigDict) -> System:
    """The system of a config with shapes for arrays, to ask it what it does."""
    return merge_model(*abstract_model(_creator(config)))


def training_free(config: ConfigDict, model: Model) -> tuple[ConfigDict, Model]:
    """The dense read-out of the CLIP inside a model, as a config and a model of its own."""
    config = ConfigDict(config.to_dict())
    config.system = ConfigDict(dict(name="clip", clip=config.system.clip))
    graphdef, params, stats = abstract_model(_creator(config))
    params = {path: model.params[path] for path in params}
    return config, create_model(config, graphdef, params, stats)


# --- Words -----------------------------------------------------------------------------------


def create_tokenizer(config: ConfigDict) -> Tokenizer:
    """The tokenizer that ``config.vocabulary.tokenizer`` names.

    'clip', 'shapes', 'letters' (a stand-in, where a checkpoint came without its tokenizer) or a
    folder.
    """
    spec, context = config.vocabulary.tokenizer, config.system.clip.text.context
    if spec == "letters":
        return LetterTokenizer(config.system.clip.text.vocab_size, context)
    if spec == "shapes":
        from data_pipelines.sources.shapes_captions import build_shapes_tokenizer

        return build_shapes_tokenizer(context)
    return load_tokenizer(spec if spec == "clip" else model_folder(spec), context)


def folder_tokenizer(config: ConfigDict, folder: Path) -> Tokenizer:
    """The tokenizer of a model folder: its files, or letters where the checkpoint had none."""
    if config.vocabulary.tokenizer == "letters":
        return create_tokenizer(config)
    return load_tokenizer(folder, config.system.clip.text.context)


def create_vocabulary(
    config: ConfigDict, model: Model, subset: str, label_space: LabelSpace | None = None
) -> Vocabulary:
    """Embeds names ('all', 'seen' or 'unseen') once; of the config's label space if not given."""
    return build_vocabulary(
        functools.partial(encode_vocabulary, model),
        create_tokenizer(config),
        label_space or load_label_space(config.vocabulary.label_space),
        load_templates(config.vocabulary.templates),
        subset=subset,
        keep_tokens=model.system().text_trains,
    )


# --- Data ------------------------------------------------------------------------------------


def on_dataset(config: ConfigDict) -> ConfigDict:
    """A recipe with the pictures and the words of `config.eval.dataset`, if that names one.

    Everything else stays: windows, templates, calibration, metrics. `config.eval.root` is where
    the data set lies; '' = its usual folder below ``data/``. The metrics of an episodic data set
    tell which of its published lists are gone through.

    Raises:
      UserError: an unknown data set, or one without classes.
    """
    if not config.eval.dataset:
        return config
    from data_pipelines.datasets import CaptionDataset, find_dataset

    dataset = find_dataset(config.eval.dataset)
    if isinstance(dataset, CaptionDataset):
        raise UserError(
            f"{dataset.title} has captions and no classes; give another config.eval.dataset."
        )
    config = ConfigDict(config.to_dict())
    root = config.eval.root or f"data/{dataset.folder}"
    source = dict(dataset.source, root=root, split=dataset.evaluated)
    if dataset.lists and config.eval.metrics in dataset.lists:
        source["lists"] = config.eval.metrics
    config.data = ConfigDict(dict(eval=dict(source=source, transforms=())))
    config.vocabulary.label_space = dataset.label_space
    return config


def create_loader(
    config: ConfigDict,
    data: ConfigDict,
    batch_size: int,
    shard: tuple[int, int] | None = None,
    **options,
):
    """The loader of one section of ``config.data`` (fields ``source`` and ``transforms``).

    It makes this process's share of the examples, unless told another one by `shard`.
    """
    from data_pipelines.loader import Loader
    from data_pipelines.sources import create_source
    from data_pipelines.transforms import create_transforms

    specs = tuple(data.transforms)
    needs_tokenizer = any(spec["name"] == "tokenize" for spec in specs)
    tokenizer = create_tokenizer(config) if needs_tokenizer else None
    return Loader(
        create_source(data.source),
        create_transforms(specs, tokenizer),
        batch_size,
        seed=config.seed,
        shard=shard or (jax.process_index(), jax.process_count()),
        unreadable=config.unreadable,
        **options,
    )
