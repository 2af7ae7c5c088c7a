"""Entry point of ``python -m ovseg_jax.parity``."""

import sys

from ovseg_jax.parity.runner import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
