"""``python -m ovseg_jax.parity FILE …``, the same as ``ovseg parity``."""

import sys

from ovseg_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["parity", *sys.argv[1:]]))
