"""A converted CLIP ViT-B/16 against the text embeddings that the real one gives."""

import functools
from pathlib import Path

import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.inference import encode_vocabulary
from ovseg_jax.models import ASSETS
from ovseg_jax.predict import Segmenter, load
from ovseg_jax.text.label_space import load_label_space
from ovseg_jax.text.templates import load_templates
from ovseg_jax.text.vocabulary import build_vocabulary

RECORDED = ASSETS / "clip_text_embeddings" / "zegclip_vitb16.npz"
# Recorded array -> label space and templates that it was made of.
CHECKS = {
    "voc12_single": ("voc_zegclip", "single_nodot"),
    "coco_single": ("coco_stuff_zegclip", "single_nodot"),
    "coco_multi": ("coco_stuff_zegclip", "zegclip_multi"),
}
LEAST_COSINE = 0.999  # the record is of half precision


def least_cosines(segmenter: Segmenter, recorded: Path = RECORDED) -> dict[str, float]:
    """For each recorded array, the least cosine between a name's embedding there and here.

    Raises:
      UserError: the model's embeddings are of another size.
    """
    arrays = np.load(recorded)
    cosines = {}
    for name, (space, templates) in CHECKS.items():
        vocabulary = build_vocabulary(
            functools.partial(encode_vocabulary, segmenter.model),
            segmenter.tokenizer,
            load_label_space(space),
            load_templates(templates),
        )
        ours, theirs = np.asarray(vocabulary.embeddings), arrays[name].astype(np.float32)
        if ours.shape != theirs.shape:
            raise UserError(
                f"the model embeds {len(ours)} names in {ours.shape[1]} numbers each, CLIP "
                f"ViT-B/16 {len(theirs)} in {theirs.shape[1]}; give a converted ViT-B/16."
            )
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines[name] = float(((ours * theirs).sum(1) / norms).min())
    return cosines


def check(model: str) -> bool:
    """Prints the comparison for a model folder; returns whether it is the real CLIP ViT-B/16."""
    cosines = least_cosines(load(model))
    for name, cosine in cosines.items():
        verdict = "yes" if cosine > LEAST_COSINE else "NO"
        print(f"{name:<14} least cosine {cosine:.6f} > {LEAST_COSINE}  {verdict}")
    return all(cosine > LEAST_COSINE for cosine in cosines.values())
