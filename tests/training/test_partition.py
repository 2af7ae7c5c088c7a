import numpy as np

from ovseg_jax.training.partition import ParamGroup, group_index, labels, split_trainable

GROUPS = (ParamGroup(r"(bias|scale)$", weight_decay=0.0), ParamGroup(r"^head/", lr=10.0))


def test_first_match_wins():
    assert group_index("head/norm/scale", GROUPS) == 0
    assert group_index("head/fc/kernel", GROUPS) == 1
    assert group_index("clip/image/fc/kernel", GROUPS) is None


def test_every_parameter_is_either_trained_or_frozen():
    paths = ("head/norm/scale", "head/fc/kernel", "clip/fc/kernel", "clip/fc/bias")
    params = {path: np.zeros(index) for index, path in enumerate(paths)}
    trainable, frozen = split_trainable(params, GROUPS)
    assert trainable.keys() == {"head/norm/scale", "head/fc/kernel", "clip/fc/bias"}
    assert {**trainable, **frozen}.keys() == params.keys() and len(frozen) == 1
    assert labels(trainable, GROUPS) == {
        "head/norm/scale": 0,
        "head/fc/kernel": 1,
        "clip/fc/bias": 0,
    }


def test_without_groups_everything_is_frozen():
    assert split_trainable({"a": 1}, ()) == ({}, {"a": 1})
