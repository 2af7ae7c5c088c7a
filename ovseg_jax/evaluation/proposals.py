"""What a system proposed in the pictures that a report shows."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.inference import Model, Protocol, lay_on_canvas
from ovseg_jax.ops.resize import resize
from ovseg_jax.report.gallery import Example, Proposal
from ovseg_jax.text.vocabulary import Vocabulary

_PICTURES, _SHOWN = 8, 6


def with_proposals(
    model: Model, vocabulary: Vocabulary, examples: Sequence[Example], protocol: Protocol
) -> list[Example]:
    """Adds the best proposals to the first few examples, if the system makes any.

    A picture goes through the network as a whole, also where the protocol has windows.
    """
    if not model.system().proposes_masks:
        return list(examples)
    whole = dataclasses.replace(protocol, crop=0, stride=0, patch=0, pad_patches=False)
    found = [
        example._replace(proposals=_best(model, vocabulary, example.image, whole))
        for example in examples[:_PICTURES]
    ]
    return found + list(examples[_PICTURES:])


def _best(
    model: Model, vocabulary: Vocabulary, image: np.ndarray, protocol: Protocol
) -> tuple[Proposal, ...]:
    import cv2

    canvas = lay_on_canvas(image, protocol)
    sizes = np.asarray([canvas.size], np.int32)
    found = jax.device_get(_propose(model, vocabulary, canvas.pixels[None], sizes))
    best = []
    for mask, row, score in zip(*(x[0] for x in found), strict=True):
        shown = mask[: canvas.size[0], : canvas.size[1]].astype(np.float32)
        mask = cv2.resize(shown, canvas.original_size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        if score > 0 and mask.any():
            best.append(Proposal(mask, int(vocabulary.class_ids[row]), float(score)))
    return tuple(best)


@jax.jit
def _propose(
    model: Model, vocabulary: Vocabulary, pixels: jax.Array, sizes: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Masks of the canvases' size, rows and scores of the best proposals, the best first."""
    system = model.system()
    found = system.proposals(system.encode(model.images(pixels, sizes), sizes), vocabulary)
    scores, order = jax.lax.top_k(found.scores, min(_SHOWN, found.scores.shape[1]))
    masks = jnp.take_along_axis(found.masks, order[..., None, None], axis=1)  # [B, K, h, w]
    rows = jnp.take_along_axis(found.rows, order, axis=1)
    return resize(masks[..., None], pixels.shape[1:3])[..., 0], rows, scores
