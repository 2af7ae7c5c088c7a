"""The one exception that a user is meant to read, and a hint that its messages share."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that names the offender and the remedy. The command line prints it
    without a traceback and exits with status 1.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown word: the known one most like it, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
