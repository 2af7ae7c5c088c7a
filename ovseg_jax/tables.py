"""Tables for a terminal."""

from collections.abc import Sequence


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], align: str, between: str = "  "
) -> str:
    """Sets out rows below a header, in columns of one width each.

    Args:
      header: name of each column.
      rows: as many texts each.
      align: a letter for each column: 'l' flush left, 'r' flush right.
      between: stands between two columns.

    Returns:
      The lines, without blanks at their ends.
    """
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    place = {"l": str.ljust, "r": str.rjust}
    return "\n".join(
        between.join(
            place[side](cell, width) for cell, width, side in zip(line, widths, align, strict=True)
        ).rstrip()
        for line in lines
    )
