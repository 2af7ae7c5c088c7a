"""Evaluations that know a part of the truth, to tell kinds of errors apart.

* 'vocabulary': only the classes that a picture holds compete in it. What is left are errors of
  localisation, and of telling apart what stands side by side.
* 'masks': the pixels of one class in a picture are named as a whole, by the mean of their scores.
  What is left are errors of naming. The rule about small areas has nothing to decide then.
* 'proposals': of a system that names proposed masks, each gets the names of what it covers, by
  overlap. What is left are errors of the masks.
"""

import functools

import jax
import jax.numpy as jnp

from ovseg_jax.errors import UserError, nearest

ORACLES = ("vocabulary", "masks", "proposals")


def check_oracle(oracle: str) -> None:
    """Raises a UserError for an unknown oracle; '' is none."""
    if oracle and oracle not in ORACLES:
        raise UserError(
            f"unknown config.eval.oracle {oracle!r} ('' is none); {nearest(oracle, ORACLES)}"
        )


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def known(oracle: str, truth: jax.Array, classes: int, ignore_label: int) -> dict[str, jax.Array]:
    """What `inference.segment` may know of a batch.

    Args:
      oracle: one of `ORACLES`, or ''.
      truth: int32 [B, H, W].
      classes: their number C.
      ignore_label: of pixels that do not count, inside [0, C) or not.

    Returns:
      Its arguments `candidates` bool [B, C], `regions` or `truth` int32 [B, H, W], or none.
    """
    counted = jnp.where(truth == ignore_label, -1, truth)
    if oracle == "masks":
        return {"regions": counted}
    if oracle == "proposals":
        return {"truth": counted}
    if oracle == "vocabulary":
        present = jax.vmap(functools.partial(_present, classes=classes))(counted)
        # Pictures without a labelled pixel do not count, but something has to be predicted.
        return {"candidates": present | ~present.any(axis=-1, keepdims=True)}
    return {}


def _present(label: jax.Array, classes: int) -> jax.Array:
    """Which classes a label map int32 [H, W] holds, bool [C]."""
    place = jnp.where(label < 0, classes, label)  # negative ones would count from the end
    return jnp.zeros(classes, bool).at[place.ravel()].set(True, mode="drop")
