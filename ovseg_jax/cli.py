"""The `ovseg` command: thin, each sub-command calls one function."""

import argparse
import importlib.metadata
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from ovseg_jax.errors import UserError

_EXAMPLES = """examples:
  ovseg segment photo.jpg --words "striped star; dotted ring; grass" --model runs/shapes_zegclip
  ovseg segment *.png --words "cat; grass, lawn" --model my_model --output segments
  ovseg vocabularies
  ovseg compare runs/first runs/second --classes
  ovseg parity tests/golden/zegclip/*.npz"""

_SEGMENT_HELP = """Writes, for each picture and at its own size,
  <name>_labels.png   palette PNG, values are positions in the names of the JSON file: those of
                      the words in their order, after "background" where one was asked for
  <name>_overlay.png  the picture under its segments, with a legend (small pictures are enlarged)
  <name>.json         the names, and the share of the picture of each
  <name>_scores.npz   with --scores: scores in half precision [height, width, names], and names"""

_SEGMENT_EXAMPLES = """examples:
  ovseg segment photo.jpg --words "striped star; dotted ring; grass" --model runs/shapes_zegclip
  ovseg segment a.png b.png --words "cat; grass, lawn" --model my_model --output segments
  ovseg segment a.png --words "cat; dog" --model my_model --template "a sketch of a {}"

One class for each part between ';', synonyms after ','. A picture that cannot be read is reported
and the others are segmented; the exit status is then 1."""


_CONVERT_HELP = """Reads a checkpoint without PyTorch and writes a model folder.

Files: OpenAI's .pt archives, .pt/.pth/.bin of PyTorch (old and new), .safetensors, .npz, and the
.pkl of detectron2's zoo.
Folders and hub names: the format of Hugging Face's transformers and of OpenCLIP, also in shards.

Models: CLIP, and zsseg's segmenters, baseline of pixels and prompt learning, which segment at once.
Parts of models, to be named in config.pretrained: ResNet (detectron2, torchvision, Caffe2), DINO
and DINOv2, zsseg's prompts."""

_CONVERT_EXAMPLES = """examples:
  ovseg convert ViT-B-16.pt models/clip_vit_b16
  ovseg convert openai/clip-vit-base-patch16 models/clip_vit_b16
  ovseg convert open_clip_pytorch_model.bin models/laion_b16 --activation gelu
  ovseg convert zsseg_coco.pth models/zsseg_coco
  ovseg convert R-50.pkl models/r50
  ovseg convert --to-torch models/clip_vit_b16 clip_vit_b16.safetensors

Every tensor is accounted for: one without a place, or a place without a tensor, is an error."""

_VOCABULARIES_EXAMPLES = """examples:
  ovseg vocabularies
  ovseg vocabularies voc_zegclip
  ovseg vocabularies voc20 --json > mine.json

A file of your own (JSON with the same keys; "classes" is enough) stands wherever the name of a
label space does."""

_COMPARE_HELP = """Prints the figures of evaluated runs in percent, the best with a star.

Figures of different protocols (classes, prompts, sizes, windows, rules, data) say nothing about
the models: such runs are refused, unless --anyway is given, which also lists what differs."""


_PREPARE_HELP = """Makes of an official archive what the data sources read, or draws a tiny twin.

Files that are there already are not made again, so a stopped command goes on. At the end a few
examples of every split are read. A twin has the data set's file names, lists, palettes and label
values with drawn pictures: recipes and loaders can be tried on it without any download."""

_PREPARE_EXAMPLES = """examples:
  ovseg prepare voc --source downloads/benchmark_RELEASE --output data/voc2012/VOCdevkit/VOC2012
  ovseg prepare voc --twin 8 --output data/voc2012
  ovseg doctor voc20 --data data/voc2012"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run_command(arguments)
    except UserError as error:
        _complain(error)
        return 1
    except KeyboardInterrupt:
        return 130


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ovseg",
        description="Open-vocabulary segmentation with JAX.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"ovseg {_version()}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_segment(commands)
    _add_convert(commands)
    _add_export(commands)
    _add_pseudo_labels(commands)
    _add_vocabularies(commands)
    _add_compare(commands)
    _add_parity(commands)
    _add_prepare(commands)
    _add_doctor(commands)
    return parser


def _version() -> str:
    try:
        return importlib.metadata.version("ovseg_jax")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


def _add_segment(commands) -> None:
    command = commands.add_parser(
        "segment",
        help="segment pictures with your own words",
        description=_SEGMENT_HELP,
        epilog=_SEGMENT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help='files, folders, patterns ("photos/**/*.jpg"), or - for a list on standard input',
    )
    classes = command.add_mutually_exclusive_group(required=True)
    classes.add_argument("--words", help='the classes: "cat; dog; grass, lawn"')
    classes.add_argument("--words-file", metavar="FILE", help="the classes, one in each line")
    classes.add_argument(
        "--vocabulary",
        metavar="NAME",
        help="those of a packaged label space (see ovseg vocabularies) or of a file of your own",
    )
    command.add_argument(
        "--model", required=True, help="folder of a run or of a converted model, or a packaged name"
    )
    command.add_argument(
        "--output", default="segments", help="folder for the results (default: %(default)s)"
    )
    command.add_argument(
        "--template",
        action="append",
        help="prompt with a {} for the name, may be repeated (default: the model's own)",
    )
    command.add_argument(
        "--background",
        default="none",
        choices=("none", "threshold", "words"),
        help="what is none of the classes: nothing, pixels whose best class is improbable, or "
        "names of scenes such as sky and wall (default: %(default)s)",
    )
    command.add_argument(
        "--threshold",
        type=float,
        help="least probability of the best word with --background threshold (default: 0.5)",
    )
    command.add_argument(
        "--scores", action="store_true", help="write the scores of all classes too (.npz)"
    )
    command.set_defaults(run_command=_segment)


def _add_convert(commands) -> None:
    command = commands.add_parser(
        "convert",
        help="make a model folder of a PyTorch checkpoint",
        description=_CONVERT_HELP,
        epilog=_CONVERT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("source", help="file, folder, or name on the Hugging Face hub")
    command.add_argument("destination", type=Path, help="model folder to write")
    command.add_argument(
        "--activation",
        default="",
        choices=("quick_gelu", "gelu"),
        help="of the transformers, where the checkpoint does not tell",
    )
    command.add_argument(
        "--method",
        help="how a CLIP segments without training: clip, maskclip, sclip, clearclip, naclip "
        "(default), gem",
    )
    command.add_argument(
        "--system",
        default="",
        help="what a CLIP becomes: training_free (default for a transformer), or clip, the plain "
        "one (default for a ResNet)",
        choices=("clip", "training_free"),
    )
    command.add_argument(
        "--to-torch",
        action="store_true",
        help="the way back: from a converted model folder to a safetensors file",
    )
    command.set_defaults(run_command=_convert)


def _add_export(commands) -> None:
    command = commands.add_parser(
        "export",
        help="make a model folder of a run",
        description="Writes all weights of a run into one file, with model.json and the "
        "tokenizer beside it: a folder to share, to load, or to start other runs from.",
    )
    command.add_argument("run", type=Path, help="run folder")
    command.add_argument("folder", type=Path, help="model folder to write")
    command.set_defaults(run_command=_export)


def _add_pseudo_labels(commands) -> None:
    command = commands.add_parser(
        "pseudo-labels",
        help="label training pictures for self-training",
        description="Labels the training pictures of a run with all names: the truth where a class "
        "was seen in training, the model's answer elsewhere. Pictures that have a label in the "
        "folder already are passed over, so an interrupted command may be started again.",
        epilog="Train on the folder with the source 'folder'; see README, zsseg.",
    )
    command.add_argument("run", type=Path, help="run folder")
    command.add_argument("folder", type=Path, help="where the label PNGs are written")
    command.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="SCORE",
        help="least score of an answer; pixels below it get no label (default %(default)s)",
    )
    command.add_argument(
        "--all-classes",
        action="store_true",
        help="let seen classes compete as well where none is labelled",
    )
    command.set_defaults(run_command=_pseudo_labels)


def _add_vocabularies(commands) -> None:
    command = commands.add_parser(
        "vocabularies",
        help="list the label spaces, or show one",
        description="Lists the packaged label spaces, or shows the classes of one in their order.",
        epilog=_VOCABULARIES_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "name", nargs="?", metavar="NAME", help="a packaged label space, or a file of your own"
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run_command=_vocabularies)


def _add_compare(commands) -> None:
    command = commands.add_parser(
        "compare",
        help="set the figures of runs side by side",
        description=_COMPARE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("runs", nargs="+", metavar="RUN", help="run folder or its result.json")
    command.add_argument(
        "--classes", action="store_true", help="list the classes too, largest differences first"
    )
    command.add_argument(
        "--anyway", action="store_true", help="compare runs of different protocols"
    )
    command.set_defaults(run_command=_compare)


def _add_parity(commands) -> None:
    command = commands.add_parser(
        "parity",
        help="check recorded reference arrays against this implementation",
        description="Compares every recorded output and gradient; exit status 1 if any differs.",
    )
    command.add_argument("files", nargs="*", metavar="FILE", help="recorded arrays (.npz)")
    command.add_argument(
        "--text",
        metavar="MODEL",
        help="compare the class embeddings of a converted CLIP ViT-B/16 with the real one's",
    )
    command.set_defaults(run_command=_parity)


def _segment(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm  # heavy imports: not for --help and --version

    from ovseg_jax.pictures import find_pictures, read_picture
    from ovseg_jax.predict import check_background, load

    # Mistakes in the words and places should not wait for the model.
    space = _label_space(arguments)
    check_background(space, arguments.background, arguments.threshold)
    paths = find_pictures(_listed(arguments.pictures))
    segmenter = load(arguments.model)
    failures = 0
    # No bar for a single picture, nor where nobody watches.
    bar = tqdm(paths, unit="picture", disable=True if len(paths) == 1 else None)
    for path, stem in zip(bar, _stems(paths), strict=True):
        try:
            picture = read_picture(path)
        except UserError as error:
            _complain(error)
            failures += 1
            continue
        result = segmenter.segment(
            picture,
            space,
            arguments.template,
            scores=arguments.scores,
            background=arguments.background,
            threshold=arguments.threshold,
        )
        saved = result.save(arguments.output, stem)
        found = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result.areas().items())
        tqdm.write(f"{path}: {found} -> {saved['overlay']}")
    return 1 if failures else 0


def _parity(arguments: argparse.Namespace) -> int:
    from ovseg_jax.parity import runner

    if not arguments.files and not arguments.text:
        raise UserError("nothing to compare; name recorded files, or a model with --text.")
    good = not arguments.files or runner.run(arguments.files)
    if arguments.text:
        from ovseg_jax.parity.text import check

        good = check(arguments.text) and good
    return 0 if good else 1


def _label_space(arguments: argparse.Namespace):
    from ovseg_jax.text import label_space

    if arguments.vocabulary:
        return label_space.load_label_space(arguments.vocabulary)
    if arguments.words_file:
        return label_space.read_words(arguments.words_file)
    return label_space.from_words(arguments.words)


def _listed(places: Sequence[str]) -> list[str]:
    """The places, with the lines of standard input for '-'."""
    lists = (sys.stdin.read().splitlines() if place == "-" else [place] for place in places)
    return [line.strip() for lines in lists for line in lines if line.strip()]


def _stems(paths: Sequence[str]) -> list[str]:
    """Names for the outputs; further pictures of one name, from other folders, get a number."""
    stems: list[str] = []
    for path in paths:
        stem = Path(path).stem
        numbered = (f"{stem}_{number}" for number in itertools.count(2))
        stems.append(next(name for name in itertools.chain([stem], numbered) if name not in stems))
    return stems


def _convert(arguments: argparse.Namespace) -> int:
    from ovseg_jax.convert.converter import DEFAULT_METHOD, convert, convert_back

    if arguments.to_torch:
        count = convert_back(Path(arguments.source), arguments.destination)
        print(f"{count} tensors -> {arguments.destination}")
    else:
        found = convert(
            arguments.source,
            arguments.destination,
            activation=arguments.activation,
            method=arguments.method or DEFAULT_METHOD,
            system=arguments.system,
        )
        print(found.table())
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from ovseg_jax.models import export_model

    export_model(arguments.run, arguments.folder)
    print(f"{arguments.run} -> {arguments.folder}")
    return 0


def _pseudo_labels(arguments: argparse.Namespace) -> int:
    from ovseg_jax.evaluation.pseudo_labels import label_training_pictures

    means = label_training_pictures(
        arguments.run,
        arguments.folder,
        threshold=arguments.threshold,
        prior=not arguments.all_classes,
    )
    figures = (f"{name} {value:.2f}" for name, value in means.items() if isinstance(value, float))
    print(f"{means['pictures']} labels in {arguments.folder}; {', '.join(figures)}")
    return 0


def _vocabularies(arguments: argparse.Namespace) -> int:
    from ovseg_jax.text import catalogue

    if arguments.name:
        show = catalogue.page_json if arguments.json else catalogue.page
        print(show(arguments.name))
    else:
        print(catalogue.listing_json() if arguments.json else catalogue.listing())
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from ovseg_jax.report.compare import compare

    print(compare(arguments.runs, anyway=arguments.anyway, classes=arguments.classes))
    return 0


def _add_prepare(commands) -> None:
    command = commands.add_parser(
        "prepare",
        help="prepare a data set from its archives, or draw a tiny twin of it",
        description=_PREPARE_HELP,
        epilog=_PREPARE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("name", help="family of data sets")
    command.add_argument("--output", type=Path, required=True, help="folder of the data set")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--source", type=Path, help="where the archive was unpacked")
    what.add_argument("--twin", type=int, metavar="N", help="draw N examples for each split")
    command.set_defaults(run_command=_prepare)


def _add_doctor(commands) -> None:
    command = commands.add_parser(
        "doctor",
        help="look for mistakes in a data set on disk",
        description="Reads a data set's examples and says what is wrong with them and how to mend "
        "it; exits with 1 if anything is.",
    )
    command.add_argument("name", help="data set")
    command.add_argument("--data", required=True, help="its folder")
    command.add_argument("--split", nargs="+", default=(), help="only these; default: all")
    command.add_argument("--limit", type=int, help="read that many examples of each split only")
    command.add_argument(
        "--output",
        type=Path,
        help="folder for a few pictures of each split, with their labels or captions",
    )
    command.set_defaults(run_command=_doctor)


def _prepare(arguments: argparse.Namespace) -> int:
    from data_pipelines.datasets import prepare
    from data_pipelines.doctor import glance

    print(prepare(arguments.name, arguments.output, arguments.source, arguments.twin))
    print(glance(arguments.name, arguments.output))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from data_pipelines.datasets import find_dataset
    from data_pipelines.doctor import examine, save_pages

    dataset = find_dataset(arguments.name)
    reports = examine(dataset, arguments.data, arguments.split, arguments.limit)
    for report in reports:
        print("\n".join(filter(None, [report.summary(), report.histogram()])))
    if arguments.output:
        save_pages(dataset, arguments.data, reports, arguments.output)
        print(f"pictures in {arguments.output}")
    findings = [finding for report in reports for finding in report.findings]
    print("\n".join(f"- {finding}" for finding in findings) or "nothing to mend")
    return int(bool(findings))


def _complain(error: UserError) -> None:
    print(f"ovseg: {error}", file=sys.stderr)


if __name__ == "__main__":
    run()
