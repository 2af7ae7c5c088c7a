"""Open-vocabulary segmentation in JAX and Flax.

segmenter = ovseg_jax.load("runs/shapes_zegclip")
segmenter.segment("photo.jpg", "striped star; dotted ring; grass").overlay().show()
"""

from ovseg_jax.errors import UserError

__all__ = ["UserError", "__version__", "load"]
__version__ = "0.1.0"


def __getattr__(name: str):
    # Models and JAX take seconds to import, which `ovseg --help` need not wait for.
    if name == "load":
        from ovseg_jax.predict import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
