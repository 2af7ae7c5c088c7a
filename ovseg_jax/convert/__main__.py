"""``python -m ovseg_jax.convert SOURCE DESTINATION``, the same as ``ovseg convert``."""

import sys

from ovseg_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
