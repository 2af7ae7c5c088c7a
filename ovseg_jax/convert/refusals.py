"""How a reader of weight files says no: one sentence, whatever the file says about itself."""

AGAIN = "download or copy it again"


class Unreadable(Exception):
    """What is wrong with a file and the remedy: the rest of a sentence that begins with its path.

    Readers raise it where they know no path; `read_checkpoint` makes a `UserError` of it.
    """


def shown(text: object, limit: int = 80) -> str:
    """Text from a file, fit for a message: one line, printable, at most `limit` characters."""
    text = str(text)
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return "".join(c if c.isprintable() else "?" for c in cut)
