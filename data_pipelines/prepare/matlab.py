"""MATLAB files, in which two data sets store labels."""

import io
import zlib
from collections.abc import Mapping
from pathlib import Path

from scipy.io import loadmat, savemat
from scipy.io.matlab import MatReadError


def read(path: Path) -> dict:
    """The variables of a file.

    Raises:
      OSError: the file cannot be opened.
      ValueError: it is damaged.
    """
    try:
        return loadmat(path)
    except (MatReadError, zlib.error) as error:
        raise ValueError(str(error)) from error


def write(variables: Mapping) -> bytes:
    """A compressed file with these variables."""
    buffer = io.BytesIO()
    savemat(buffer, dict(variables), do_compression=True)
    return buffer.getvalue()
