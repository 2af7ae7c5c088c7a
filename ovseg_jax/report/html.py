"""The report of an evaluation: one folder with a page and its pictures, nothing from outside."""

import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ovseg_jax.files import atomic_write_all
from ovseg_jax.report.colors import picture_colors, png
from ovseg_jax.report.figures import GROUPS, figures, figures_of_sets, number
from ovseg_jax.report.gallery import Example
from ovseg_jax.report.overlay import paint, present_classes

_FURTHER = {
    "retrieval": "captions that find their picture",
    "zero_shot": "single objects",
    "regions": "whose class is among the best names",
}
_PAINT = 0.75  # more than over a picture alone, which stands beside

_STYLE = """
:root { --ink: #1c1e22; --faint: #6b7078; --line: #e3e5e9; --seen: #3b6fb6; --unseen: #d9731a; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 32px 24px 64px; color: var(--ink);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 19px; margin: 40px 0 12px; }
p, summary { color: var(--faint); margin: 0 0 12px; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.figure { border: 1px solid var(--line); border-radius: 10px; padding: 12px 18px;
  min-width: 150px; }
.figure b { display: block; font-size: 28px; font-variant-numeric: tabular-nums; }
.figure small { color: var(--faint); display: block; }
table { border-collapse: collapse; } td, th { text-align: left; padding: 3px 14px 3px 0; }
th { color: var(--faint); font-weight: normal; } td.number { text-align: right; }
.bars { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr));
  column-gap: 32px; font-size: 13px; }
.bar { display: grid; grid-template-columns: 142px 1fr 44px; grid-auto-columns: 44px;
  grid-auto-flow: column; gap: 8px; align-items: center;
  height: 21px; }
.bar span:first-child { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.edge { color: var(--faint); }
.track { background: #f0f1f4; border-radius: 3px; height: 11px; }
.fill { background: var(--seen); border-radius: 3px; height: 11px; }
.unseen .fill, .key.unseen { background: var(--unseen); }
#by-name:checked ~ .bars .bar { order: var(--name); }
#by-place:checked ~ .bars .bar { order: var(--place); }
label { color: var(--faint); margin-right: 12px; }
.number { font-variant-numeric: tabular-nums; text-align: right; }
.warning { color: white; background: #b3261e; border-radius: 8px; padding: 10px 14px; }
.key { display: inline-block; width: 12px; height: 12px; border-radius: 3px;
  background: var(--seen); margin: 0 5px 0 12px; vertical-align: -1px; }
.badge { background: var(--unseen); color: white; border-radius: 8px; padding: 0 7px;
  font-size: 12px; }
.example { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)) 290px; gap: 14px;
  padding: 18px 0; border-top: 1px solid var(--line); break-inside: avoid; }
figure { margin: 0; } figcaption { color: var(--faint); font-size: 13px; }
figure img { width: 100%; display: block; border-radius: 6px; }
figure img.small { image-rendering: pixelated; }
.legend { font-size: 13px; } .legend table { width: 100%; } .legend td, .legend th
  { padding: 2px 8px 2px 0; } .legend .number { padding-right: 0; white-space: nowrap; }
.chip { display: inline-block; width: 14px; height: 14px; border: 1px solid var(--ink);
  border-radius: 3px; margin-right: 7px; vertical-align: -2px; }
.proposals { display: grid; grid-template-columns: repeat(6, minmax(0, 1fr)); gap: 10px;
  padding: 0 0 18px; }
@media (max-width: 900px) { .example { grid-template-columns: repeat(3, 1fr); }
  .legend { grid-column: 1 / -1; } }
"""

# Buttons by which CSS alone sorts the bars beside them: the page runs no script.
_ORDERS = """Sorted by
<input type="radio" name="order" id="by-iou" checked><label for="by-iou">IoU</label>
<input type="radio" name="order" id="by-name"><label for="by-name">name</label>
<input type="radio" name="order" id="by-place"><label for="by-place">place in the list</label>
"""


def write_report(
    folder: str | Path,
    result: Mapping,
    examples: Mapping[str, Sequence[Example]],
    names: Sequence[str],
    unseen: Sequence[int] = (),
    title: str = "Evaluation",
) -> Path:
    """Writes ``index.html`` and the pictures it shows.

    Args:
      folder: made if missing.
      result: of an evaluation, see `evaluate.evaluate_model`.
      examples: the pictures to show, by heading.
      names: of the classes.
      unseen: classes that had no labels in training; they are marked.
      title: of the page.

    Returns:
      The path of the page.

    Raises:
      UserError: the disk is full or the folder cannot be written; nothing is left half-written.
    """
    folder = Path(folder)
    numbers = itertools.count()
    files: dict[str, bytes] = {}
    sections = []
    for heading, group in examples.items():
        rendered = [_example(next(numbers), example, names, set(unseen)) for example in group]
        sections += [f"<h2>{escape(heading)}</h2>"] if rendered else []
        for row, pictures in rendered:
            sections.append(row)
            files |= pictures
    page = folder / "index.html"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            _introduction(result, {names[index] for index in unseen}),
            f'<p class="warning">{escape(result["warning"])}</p>' if "warning" in result else "",
            _figures(result),
            _sets(result),
            "<h2>IoU of each class</h2>",
            _bars(result, {names[index] for index in unseen}),
            _confusions(result.get("confusions", ())),
            *sections,
            "<h2>Protocol</h2>",
            _protocol(result.get("protocol", {})),
        ]
    )
    contents = {folder / name: content for name, content in files.items()}
    atomic_write_all(contents | {page: _page(title, body).encode()})
    return page


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _introduction(result: Mapping, unseen: set[str]) -> str:
    classes, protocol = result["IoU"], result.get("protocol", {})
    text = (
        f"{result['images']} pictures, {len(classes)} classes, {len(unseen & set(classes))} of "
        "them without labels in training. "
    )
    if "unreadable" in result:
        text += f"{result['unreadable']} more pictures could not be read. "
    text += "Figures in percent"
    for key, words in (("metrics", " by the rules of {}"), ("oracle", ", with the oracle '{}'")):
        if protocol.get(key):
            text += words.format(protocol[key])
    return f"<p>{escape(text)}.</p>"


def _number(value: float | None) -> str:
    return "–" if math.isnan(number(value)) else f"{value:.1f}"


def _figures(result: Mapping) -> str:
    """Cards of the means; where the figures before training are known, they stand below."""
    before = result.get("training_free", {})
    cards = [
        f'<div class="figure">{label}<b>{_number(result[key])}</b><small>{meaning}</small>'
        + (f"<small>{_number(before[key])} training-free</small>" if key in before else "")
        + "</div>"
        for key, label, meaning in figures(result)
    ]
    cards += [
        f'<div class="figure">{escape(key)}<b>{_number(value)}</b><small>{_FURTHER[group]}, '
        f"{result[group][counted]} {counted}</small></div>"
        for group, counted in GROUPS.items()
        for key, value in result.get(group, {}).items()
        if key != counted
    ]
    return f'<div class="figures">{"".join(cards)}</div>'


def _sets(result: Mapping) -> str:
    """A table of the means over all, the seen and the unseen classes, if there are such."""
    rows = "".join(
        f"<tr><td>{label}</td>"
        + "".join(
            f'<td class="number">{_number(result[key + suffix])}</td>'
            for suffix in ("", "_seen", "_unseen")
        )
        + "</tr>"
        for key, label, _ in figures_of_sets(result)
    )
    head = "".join(f'<th class="number">{name}</th>' for name in ("all", "seen", "unseen"))
    return f"<table><tr><th></th>{head}</tr>{rows}</table>" if rows else ""


def _bars(result: Mapping, unseen: set[str]) -> str:
    """A bar for the IoU of each class, the best first, and its Boundary IoU as a number."""
    iou, edges = result["IoU"], result.get("boundary_IoU")
    present = {name: value for name, value in iou.items() if not math.isnan(number(value))}
    places = {name: place for place, name in enumerate(present)}
    letters = {name: place for place, name in enumerate(sorted(present, key=str.casefold))}
    bars = []
    for name, value in sorted(present.items(), key=lambda item: -item[1]):
        kind = "bar unseen" if name in unseen else "bar"
        order = f"--name:{letters[name]};--place:{places[name]}"
        edge = f'<span class="number edge">{_number(edges[name])}</span>' if edges else ""
        bars.append(
            f'<div class="{kind}" style="{order}">'
            f'<span title="{escape(name)}">{escape(name)}</span>'
            f'<div class="track"><div class="fill" style="width:{value:.1f}%"></div></div>'
            f'<span class="number">{value:.1f}</span>{edge}</div>'
        )
    absent = [escape(name) for name in iou if name not in present]
    note = f"<p>Neither labelled nor predicted: {', '.join(absent)}.</p>" if absent else ""
    key = '<p><i class="key" style="margin-left:0"></i>seen <i class="key unseen"></i>unseen'
    key += "; the second number is the Boundary IoU</p>" if edges else "</p>"
    return f'{key}{_ORDERS}<div class="bars">{"".join(bars)}</div>{note}'


def _confusions(confusions: Sequence[Mapping]) -> str:
    if not confusions:
        return ""
    rows = "".join(
        f"<tr><td>{escape(entry['true'])}</td><td>{escape(entry['predicted'])}</td>"
        f'<td class="number">{entry["share"]:.1f} %</td>'
        f'<td class="number">{entry["pixels"]:,}</td></tr>'
        for entry in confusions
    )
    head = (
        "<tr><th>true class</th><th>taken for</th>"
        '<th class="number">share of the true class</th><th class="number">pixels</th></tr>'
    )
    return f"<h2>Most frequent confusions</h2>\n<table>{head}{rows}</table>"


def _example(
    number: int, example: Example, names: Sequence[str], unseen: set[int]
) -> tuple[str, dict[str, bytes]]:
    """A row of the page, and the files it shows by their place beside the page."""
    shares = _shares(example, len(names))
    proposed = [proposal.label for proposal in example.proposals]
    colors = picture_colors(list(dict.fromkeys([*shares, *proposed])), len(names))
    pictures = {
        "image": example.image,
        "truth": paint(example.image, example.truth, colors, _PAINT),
        "prediction": paint(example.image, example.prediction, colors, _PAINT),
    }
    sources = {kind: f"pictures/{number:03d}_{kind}.png" for kind in pictures}
    figures = "".join(_figure(example, source, kind, kind) for kind, source in sources.items())
    legend = _legend(example, shares, colors, names, unseen)
    row = f'<div class="example">{figures}{legend}</div>'
    files = {sources[kind]: png(picture) for kind, picture in pictures.items()}
    masks, more = _proposals(number, example, colors, names, unseen)
    return row + masks, files | more


def _proposals(
    number: int, example: Example, colors: np.ndarray, names: Sequence[str], unseen: set[int]
) -> tuple[str, dict[str, bytes]]:
    """A row of the masks from which the prediction was made, and the files it shows."""
    figures, files = [], {}
    for place, proposal in enumerate(example.proposals):
        source = f"pictures/{number:03d}_proposal_{place}.png"
        painted = paint(example.image, np.where(proposal.mask, proposal.label, -1), colors, _PAINT)
        files[source] = png(painted)
        name = escape(names[proposal.label])
        caption = f"{name} {proposal.score:.2f}{_badge(proposal.label, unseen)}"
        figures.append(_figure(example, source, f"proposal: {name}", caption))
    return (f'<div class="proposals">{"".join(figures)}</div>' if figures else ""), files


def _figure(example: Example, source: str, alternative: str, caption: str) -> str:
    """A picture of the example's size with HTML below it."""
    height, width = example.image.shape[:2]
    # Small pictures are enlarged by the browser, which must not blur them.
    kind = ' class="small"' if max(height, width) < 400 else ""
    return (
        f'<figure><img{kind} src="{source}" width="{width}" height="{height}" '
        f'style="height:auto" alt="{alternative}"><figcaption>{caption}</figcaption></figure>'
    )


def _badge(index: int, unseen: set[int]) -> str:
    return ' <span class="badge">unseen</span>' if index in unseen else ""


def _shares(example: Example, count: int) -> dict[int, tuple[float | None, float | None]]:
    """Shares of the true and the predicted picture by class, the largest true ones first."""
    truth = dict(present_classes(example.truth, count))
    predicted = dict(present_classes(example.prediction, count))
    order = sorted(truth | predicted, key=lambda k: (-truth.get(k, 0), -predicted.get(k, 0)))
    return {index: (truth.get(index), predicted.get(index)) for index in order}


def _legend(
    example: Example,
    shares: Mapping[int, tuple[float | None, float | None]],
    colors: np.ndarray,
    names: Sequence[str],
    unseen: set[int],
) -> str:
    lines = []
    for index, pair in shares.items():
        color = "#{:02x}{:02x}{:02x}".format(*colors[index])
        cells = "".join(f'<td class="number">{_share(share)}</td>' for share in pair)
        lines.append(
            f'<tr><td><i class="chip" style="background:{color}"></i>{escape(names[index])}'
            f"{_badge(index, unseen)}</td>{cells}</tr>"
        )
    counted = (example.truth >= 0) & (example.truth < len(names))
    right = (example.truth == example.prediction)[counted]
    accuracy = f"{100 * right.mean():.0f} % of the labelled pixels right" if right.size else ""
    caption = f"<p>{accuracy}, mIoU {_number(example.score)}</p>" if accuracy else ""
    head = '<tr><th></th><th class="number">truth</th><th class="number">predicted</th></tr>'
    return f'<div class="legend">{caption}<table>{head}{"".join(lines)}</table></div>'


def _share(share: float | None) -> str:
    if share is None:
        return "–"
    return "&lt; 1 %" if share < 0.01 else f"{100 * share:.0f} %"


def _protocol(protocol: Mapping) -> str:
    rows = "".join(
        f"<tr><th>{escape(str(key))}</th><td>{escape(_plain(value))}</td></tr>"
        for key, value in protocol.items()
    )
    return f"<table>{rows}</table>"


def _plain(value) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
