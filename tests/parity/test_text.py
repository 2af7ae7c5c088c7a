"""The check of a converted text tower, with stand-ins for the real weights."""

import types

import numpy as np
import pytest

from ovseg_jax.errors import UserError
from ovseg_jax.parity import text
from ovseg_jax.text.vocabulary import Vocabulary

SEGMENTER = types.SimpleNamespace(model=None, tokenizer=None)


def pretend(monkeypatch, change):
    """Lets the model answer with the recorded arrays, after `change`."""
    recorded = np.load(text.RECORDED)
    sizes = {(20, 1): "voc12_single", (171, 1): "coco_single", (171, 15): "coco_multi"}

    def build(encode, tokenizer, space, templates):
        name = sizes[len(space), len(templates)]
        return Vocabulary(change(name, recorded[name].astype(np.float32)), None, None)

    monkeypatch.setattr(text, "build_vocabulary", build)
    monkeypatch.setattr(text, "load", lambda model: SEGMENTER)


def test_the_real_embeddings_pass(monkeypatch, capsys):
    pretend(monkeypatch, lambda name, array: 3.0 * array)
    assert text.check("model")
    assert capsys.readouterr().out.count("yes") == 3


def test_two_names_in_the_wrong_order_fail(monkeypatch, capsys):
    swap = {"coco_multi": [1, 0, *range(2, 171)]}
    pretend(monkeypatch, lambda name, array: array[swap.get(name, slice(None))])
    assert not text.check("model")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "NO" in line] == [
        "coco_multi"
    ]


def test_a_model_of_another_size(monkeypatch):
    pretend(monkeypatch, lambda name, array: array[:, :100])
    with pytest.raises(UserError, match=r"in 100 numbers each, CLIP ViT-B/16 20 in 512"):
        text.check("model")
