"""A foreign checkpoint becomes a model folder, and a model folder a file in foreign names."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ovseg_jax import models
from ovseg_jax.convert.checkpoint_files import FOLDER_FILES, read_checkpoint, strip_prefix
from ovseg_jax.convert.layouts import Layout, Sizes, Source, find_layout, layout_named
from ovseg_jax.convert.sections import model_sections, windows
from ovseg_jax.errors import UserError
from ovseg_jax.files import atomic_write
from ovseg_jax.networks.clip import CLIPConfig, ViTConfig
from ovseg_jax.params import abstract_model
from ovseg_jax.pictures import CLIP_MEAN, CLIP_STD
from ovseg_jax.systems import create_system
from ovseg_jax.text.tokenizer import has_tokenizer
from ovseg_jax.training.logs import progress_bar
from ovseg_jax.weights import load_model_json, load_weights, save_weights

DEFAULT_METHOD = "naclip"
_CLIP_VOCABULARY = 49408
_DESCRIPTIONS = ("open_clip_config.json", "config.json")
# The second kind of weights is fetched only where the first is missing.
_HUB_FILES = (("*.json", "*.txt", "README.md", "*.safetensors"), ("*.bin",))
_NO_TOKENIZER = (
    "the checkpoint came without its tokenizer, and its vocabulary is not CLIP's; letters stand in "
    "for it, so names mean nothing to the model: put vocab.json and merges.txt beside the "
    "checkpoint and convert again"
)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was found in a checkpoint and what became of it.

    Attributes:
      container: kind of the file or folder.
      layout: name of the layout.
      system: our system.
      tensors: how many were mapped.
      dropped: names of those that have no counterpart here.
      opaque: what lay beside the weights and was not read.
      parameters: how many numbers the model has.
      folder: that was written.
    """

    container: str
    layout: str
    system: str
    tensors: int
    dropped: tuple[str, ...]
    opaque: tuple[str, ...]
    parameters: int
    folder: Path

    def table(self) -> str:
        """The summary that the command prints."""
        rows = {
            "file": self.container,
            "layout": self.layout,
            "system": self.system,
            "mapped": f"{self.tensors} tensors, {self.parameters / 1e6:.2f} M parameters",
            "dropped": _listed(self.dropped),
            "not read": _listed(self.opaque),
            "written to": str(self.folder),
        }
        return "\n".join(f"{name:<11} {value}" for name, value in rows.items())


def _listed(names: Sequence[str], shown: int = 4) -> str:
    if not names:
        return "nothing"
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def convert(
    source: str,
    folder: Path,
    activation: str = "",
    method: str = DEFAULT_METHOD,
    system: str = "",
) -> Conversion:
    """Writes a model folder from a checkpoint.

    The weights keep the precision of the source, so half-precision files stay as small as they are.

    Args:
      source: a file, a folder in Hugging Face's format, or the name of a model on the hub.
      folder: to write.
      activation: 'quick_gelu' or 'gelu', where the checkpoint does not tell.
      method: by which a CLIP with a transformer segments, of `networks.training_free.METHODS`.
      system: 'training_free' or 'clip'; '' = the former for a transformer, the latter for a
        ResNet.

    Raises:
      UserError: no such checkpoint, a damaged or hostile file, an unknown layout, tensors that are
        not accounted for, a full disk.
    """
    path = locate(source)
    checkpoint = read_checkpoint(path)
    tensors = strip_prefix(checkpoint.tensors, "module.")
    layout = find_layout(tensors, str(source))
    tensors = layout.strip(tensors)
    beside = path if path.is_dir() else path.parent
    with _told_by_tensors(source, layout):
        sizes = layout.config(Source(tensors, _description(beside), activation))
        if system and not isinstance(sizes, CLIPConfig):
            raise UserError(f"{source} is no CLIP but {layout.name}; leave out --system.")
        config = _sections(sizes, beside, method, system)
        shapes = _shapes(layout, sizes, config)
        weights = layout.name_map.inward(tensors, shapes)
    notes = {
        "source": Path(source).name if Path(source).exists() else source,
        "layout": layout.name,
        "sha256": digest(checkpoint.files),
        "licence": _licence(beside),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / models.WEIGHTS, weights)
    if config is None:  # no model of its own, but a part of others
        description = {layout.part.name: dataclasses.asdict(sizes), "notes": notes}
        atomic_write(folder / "model.json", json.dumps(description, indent=1).encode() + b"\n")
    else:
        notes |= config.notes
        if config.vocabulary.tokenizer == "letters":
            notes["warning"] = _NO_TOKENIZER
        models.write_model_files(folder, config, notes)
    return Conversion(
        container=checkpoint.layout,
        layout=layout.name,
        system=config.system.name if config else f"a part of {layout.part.systems}",
        tensors=sum(bool(layout.name_map.paths(name)) for name in tensors),
        dropped=tuple(name for name in tensors if not layout.name_map.paths(name)),
        opaque=checkpoint.opaque,
        parameters=sum(int(np.prod(shape)) for shape in shapes.values()),
        folder=folder,
    )


@contextlib.contextmanager
def _told_by_tensors(source: str, layout: Layout) -> Iterator[None]:
    """Around what believes the names and shapes of a file that may hold anything.

    Raises:
      UserError: a tensor is missing, or the shapes make no network.
    """
    looks = f"{source} looks like {layout.name}, but"
    try:
        yield
    except KeyError as error:
        raise UserError(f"{looks} lacks {error.args[0]}; give the whole checkpoint.") from error
    except (IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{looks} the shapes of its tensors make no such network ({error}); fetch the "
            "checkpoint again."
        ) from error


def convert_back(folder: Path, path: Path) -> int:
    """Writes the weights of a model folder as safetensors in the names of their source.

    What was dropped is written again as far as it follows from the rest.

    Returns:
      How many tensors were written.

    Raises:
      UserError: no model folder, or one that was not converted.
    """
    description = load_model_json(folder)
    notes = description.get("notes", {})
    if "layout" not in notes:
        raise UserError(
            f"{folder} was not converted from another layout, so there are no names to go back to; "
            "give the folder of a converted model."
        )
    layout = layout_named(notes["layout"])
    tensors = layout.name_map.outward(load_weights(folder / models.WEIGHTS))
    tensors |= layout.derived(tensors, description)
    save_weights(path, layout.unstrip(tensors))
    return len(tensors)


def locate(source: str) -> Path:
    """The local file or folder of a checkpoint; a hub's name is fetched into its cache.

    Raises:
      UserError: there is neither, or the hub cannot be reached.
    """
    if Path(source).exists():
        return Path(source)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise UserError(f"no checkpoint at {source}; check the path, or give a name as on the hub.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        for patterns in _HUB_FILES:
            folder = Path(snapshot_download(source, allow_patterns=list(patterns)))
            if any((folder / name).is_file() for name in FOLDER_FILES):
                break
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(
            f"{source} is neither a path here nor could it be fetched from the hub ({first}); "
            "check the name and the connection."
        ) from error


def _sections(sizes: Sizes, beside: Path, method: str, system: str) -> ConfigDict | None:
    """The sections of model.json; None where the checkpoint becomes a part of other models."""
    if isinstance(sizes, CLIPConfig):
        return clip_sections(sizes, beside, method, system)
    return sizes if isinstance(sizes, ConfigDict) else None


def _shapes(layout: Layout, sizes: Sizes, config: ConfigDict | None) -> dict[str, tuple[int, ...]]:
    """What the networks expect, by path."""
    if layout.part:
        _, params, stats = abstract_model(lambda rngs: sizes.build(rngs=rngs))
    else:
        _, params, stats = abstract_model(lambda rngs: create_system(config, rngs))
    prefix = layout.part.prefix if layout.part else ""
    return {prefix + name: leaf.shape for name, leaf in {**params, **stats}.items()}


def clip_sections(sizes: CLIPConfig, beside: Path, method: str, system: str) -> ConfigDict:
    """The sections of model.json for a converted CLIP: it segments without training."""
    # The system 'clip' reads the values of a ResNet's attention pool.
    name = system or ("training_free" if isinstance(sizes.image, ViTConfig) else "clip")
    options = dict(method=method) if name == "training_free" else {}
    tokenizer = _tokenizer(sizes.text.vocab_size, beside)
    return model_sections(
        dict(name=name, clip=dataclasses.asdict(sizes), **options),
        (CLIP_MEAN, CLIP_STD),
        # A stand-in has no room for the words of a template.
        "{}" if tokenizer == "letters" else "imagenet80",
        windows(sizes.image.image_size),
        tokenizer,
    )


def _tokenizer(vocab_size: int, beside: Path) -> str:
    if has_tokenizer(beside):
        return str(beside)
    return "clip" if vocab_size == _CLIP_VOCABULARY else "letters"


def _description(beside: Path) -> Mapping:
    for name in _DESCRIPTIONS:
        if (beside / name).is_file():
            try:
                return json.loads((beside / name).read_text())
            except ValueError as error:
                raise UserError(
                    f"{beside / name} is damaged ({error}); download it again."
                ) from error
    return {}


def _licence(beside: Path) -> str:
    """What the model's card says; the authors' licence holds for converted weights too."""
    card = beside / "README.md"
    found = re.search(r"^license:\s*(\S+)", card.read_text(), re.M) if card.is_file() else None
    stated = f"the source's card says {found[1]!r}" if found else "see the source"
    return f"the licence of the original weights holds ({stated})"


def digest(files: Iterable[Path]) -> str:
    """SHA-256 of the bytes of the files, one after the other."""
    total = hashlib.sha256()
    files = list(files)
    with progress_bar(sum(file.stat().st_size for file in files), label="digest", unit="B") as bar:
        for file in files:
            with open(file, "rb") as stream:
                while block := stream.read(1 << 22):
                    total.update(block)
                    bar.update(len(block))
    return total.hexdigest()
