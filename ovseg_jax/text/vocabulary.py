"""A vocabulary: the names a system is asked for, as vectors."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.errors import UserError
from ovseg_jax.text.label_space import LabelSpace
from ovseg_jax.text.templates import fill
from ovseg_jax.text.tokenizer import Tokenizer

_LENGTH_STEP = 16


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Text embeddings and what their rows mean; a pytree.

    Attributes:
      embeddings: float32 [N, D]; zero where padded.
      class_ids: int32 [N], label id of the row in its data set; synonyms share it; -1 = padding.
      seen: bool [N], the class may be trained on with masks (True without a split).
      tokens: int32 [N, P, L], where embeddings change in training; padding repeats a name.
    """

    embeddings: jax.Array
    class_ids: jax.Array
    seen: jax.Array
    tokens: jax.Array | None = None


def build_prompts(
    label_space: LabelSpace, templates: Sequence[str], subset: str = "all"
) -> tuple[list[list[str]], np.ndarray]:
    """Writes the prompts of every query string of a label space.

    Args:
      label_space: whose names are asked for.
      templates: see `ovseg_jax.text.templates`.
      subset: 'all', 'seen' or 'unseen' classes.

    Returns:
      A list of P prompts per query string, and the class ids int32 of the query strings.

    Raises:
      UserError: without a template.
    """
    if not templates:
        raise UserError(
            "a vocabulary needs at least one prompt template, such as 'a photo of a {}'"
        )
    queries = [(i, word) for i in label_space.subset(subset) for word in label_space.classes[i]]
    prompts = [[fill(template, word) for template in templates] for _, word in queries]
    return prompts, np.array([i for i, _ in queries], np.int32)


def _without_padding(tokens: np.ndarray) -> np.ndarray:
    """Cuts columns that are padding in every text, int [n, L]; lengths share a few shapes.

    Nothing that an encoder reads is lost: no token attends to the padding behind it. CLIP's context
    is 77 tokens long and its prompts have about ten.
    """
    longest = int(np.flatnonzero(tokens.any(axis=0))[-1]) + 1
    return tokens[:, : -(-longest // _LENGTH_STEP) * _LENGTH_STEP]


def build_vocabulary(
    encode: Callable[[jax.Array], jax.Array],
    tokenizer: Tokenizer,
    label_space: LabelSpace,
    templates: Sequence[str],
    subset: str = "all",
    pad_to_multiple: int = 1,
    texts_per_call: int = 512,
    keep_tokens: bool = False,
) -> Vocabulary:
    """Encodes the names of a label space.

    Names go through `encode` in chunks of one shape, so that a jitted encoder is compiled once.

    Args:
      encode: tokens int32 [n, P, L] -> embeddings [n, D], usually a system's
        `encode_vocabulary` with its parameters bound.
      tokenizer: texts -> int32 [n, L].
      label_space: one row per query string, in class order.
      templates: P templates; how prompts are averaged is the encoder's business.
      subset: 'all', 'seen' or 'unseen' classes.
      pad_to_multiple: N is rounded up to a multiple of this.
      texts_per_call: bounds n * P, and so the memory of a call.
      keep_tokens: whether the vocabulary holds the tokens, too.

    Returns:
      A vocabulary of N rows, the real ones first.

    Raises:
      UserError: without a template, or when the label space lacks the subset.
    """
    prompts, class_ids = build_prompts(label_space, templates, subset)
    count, per_name = len(prompts), len(templates)
    tokens = tokenizer([text for texts in prompts for text in texts])
    tokens = _without_padding(tokens).reshape(count, per_name, -1)  # [n, P, L]
    # Powers of two from 8 on, so that vocabularies of many sizes share few shapes; the last chunk
    # repeats its last name up to the common shape.
    chunk = min(max(8, 1 << (count - 1).bit_length()), max(1, texts_per_call // per_name))
    chunks = _pad_edge(tokens, chunk)
    rows = [np.asarray(encode(chunks[i : i + chunk])) for i in range(0, len(chunks), chunk)]
    embeddings = np.concatenate(rows).astype(np.float32)[:count]
    seen = np.isin(class_ids, label_space.seen) | (not label_space.seen and not label_space.unseen)
    padding = -count % pad_to_multiple
    return Vocabulary(
        embeddings=jnp.asarray(np.pad(embeddings, ((0, padding), (0, 0)))),
        class_ids=jnp.asarray(np.pad(class_ids, (0, padding), constant_values=-1)),
        seen=jnp.asarray(np.pad(seen, (0, padding))),
        tokens=jnp.asarray(_pad_edge(tokens, pad_to_multiple)) if keep_tokens else None,
    )


def _pad_edge(tokens: np.ndarray, multiple: int) -> np.ndarray:
    """Repeats the last name up to a multiple of names, [n, P, L]."""
    return np.pad(tokens, ((0, -len(tokens) % multiple), (0, 0), (0, 0)), mode="edge")
