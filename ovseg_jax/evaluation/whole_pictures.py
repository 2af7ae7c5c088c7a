"""What a CLIP knows of whole pictures: which caption is theirs, and what the one object is."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.inference import Model
from ovseg_jax.ops.images import normalize
from ovseg_jax.text.vocabulary import Vocabulary

Encode = Callable[[np.ndarray], jax.Array]


def clip_encoders(model: Model) -> tuple[Encode, Encode]:
    """The two towers of a CLIP system: uint8 images -> [B, E], tokens -> [B, E]."""
    return functools.partial(_encode_image, model), functools.partial(_encode_text, model)


@jax.jit
def _encode_image(model: Model, image: jax.Array) -> jax.Array:
    return model.system().clip.encode_image(normalize(image, model.mean, model.std))


@jax.jit
def _encode_text(model: Model, tokens: jax.Array) -> jax.Array:
    return model.system().clip.encode_text(tokens)


def evaluate_retrieval(
    encode_image: Encode,
    encode_text: Encode,
    batches: Iterable[Mapping[str, np.ndarray]],
    ranks: Sequence[int] = (1, 5),
) -> dict:
    """Finds the picture of each caption among all pictures.

    Args:
      encode_image: images [B, H, W, 3] as the batches hold them -> [B, E].
      encode_text: tokens int32 [B, L] -> [B, E].
      batches: `image` and `text`; examples whose `valid` is False are left out.
      ranks: the k of recall at k.

    Returns:
      Percentages `R@1`, `R@5`, … and `pictures`, among how many. A picture whose caption has the
      same words is as right as the caption's own.
    """
    batches = list(map(_valid_features(encode_image, encode_text), batches))
    images, texts, tokens = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    similarity = texts @ images.T  # [captions, pictures]
    _, words = np.unique(tokens, axis=0, return_inverse=True)
    same = words[:, None] == words
    best = np.where(same, similarity, -np.inf).max(axis=1, keepdims=True)
    # Ties count against the model: equal features of all pictures must not be perfect recall.
    before = ((similarity >= best) & ~same).sum(axis=1)
    return {f"R@{k}": 100 * float((before < k).mean()) for k in ranks} | {"pictures": len(images)}


def _valid_features(encode_image: Encode, encode_text: Encode):
    def features(batch):
        valid = np.asarray(batch.get("valid", np.ones(len(batch["image"]), bool)))
        image, text = encode_image(batch["image"]), encode_text(batch["text"])
        return _unit(image)[valid], _unit(text)[valid], np.asarray(batch["text"])[valid]

    return features


def evaluate_zero_shot(
    encode_image: Encode,
    vocabulary: Vocabulary,
    batches: Iterable[Mapping[str, np.ndarray]],
    unseen: Sequence[int] = (),
) -> dict:
    """Names the one object of each picture.

    The names of the objects compete: a picture also shows what the object lies on, and with all
    names in the list that is a true answer as well.

    Args:
      encode_image: as in `evaluate_retrieval`.
      vocabulary: the names.
      batches: `image` and `class_id` int [B]; examples whose `valid` is False are left out.
      unseen: classes whose accuracy is given apart too.

    Returns:
      Percentages `accuracy`, `accuracy_unseen` (NaN without such pictures) and, with all names in
      the list, `accuracy_all_names`; `pictures`.
    """
    ids = np.asarray(vocabulary.class_ids)
    rows, ids = np.asarray(vocabulary.embeddings)[ids >= 0], ids[ids >= 0]
    scores, truths = [], []
    for batch in batches:
        valid = np.asarray(batch.get("valid", np.ones(len(batch["image"]), bool)))
        scores.append((_unit(encode_image(batch["image"])) @ rows.T)[valid])  # [B, N]
        truths.append(np.asarray(batch["class_id"])[valid])
    scores, truth = np.concatenate(scores), np.concatenate(truths)
    objects = np.isin(ids, truth)
    hit = ids[objects][scores[:, objects].argmax(axis=1)] == truth
    new = np.isin(truth, unseen)
    return {
        "accuracy": 100 * float(hit.mean()),
        "accuracy_unseen": 100 * float(hit[new].mean()) if new.any() else float("nan"),
        "accuracy_all_names": 100 * float((ids[scores.argmax(axis=1)] == truth).mean()),
        "pictures": len(hit),
    }


def _unit(features: jax.Array) -> np.ndarray:
    features = jnp.asarray(features, jnp.float32)
    return np.asarray(features / jnp.linalg.norm(features, axis=-1, keepdims=True))
