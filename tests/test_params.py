import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ovseg_jax.params import (
    abstract_model,
    flatten,
    initialize,
    merge_model,
    model_state,
    split_model,
    unflatten,
)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs) for _ in range(11)])
        self.mean = nnx.BatchStat(jnp.zeros(2))

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        self.mean[...] = x.mean(0)
        return x


def test_flatten_and_back():
    tree = {"b": {"layers": {0: 1, 10: 2, 9: 3}}, "a": 4}
    assert flatten(tree) == {"a": 4, "b/layers/0": 1, "b/layers/10": 2, "b/layers/9": 3}
    assert unflatten(flatten(tree)) == tree


def test_a_module_survives_being_taken_apart():
    net = Net(nnx.Rngs(0))
    graphdef, params, state = split_model(net)
    assert "layers/10/kernel" in params and len(params) == 22 and set(state) == {"mean"}
    again = merge_model(graphdef, params, state)
    x = jnp.ones((3, 2))
    np.testing.assert_array_equal(again(x), net(x))
    np.testing.assert_array_equal(model_state(again)["mean"], net.mean[...])


def test_shapes_without_allocation_and_parameters_by_seed():
    graphdef, shapes, state = abstract_model(Net)
    params, stats = initialize(Net, seed=1)
    assert {k: v.shape for k, v in params.items()} == {k: v.shape for k, v in shapes.items()}
    assert not any(
        hasattr(leaf, "addressable_data") for leaf in (*shapes.values(), *state.values())
    )
    merge_model(graphdef, params, stats)(jnp.ones((1, 2)))
    same, _ = initialize(Net, seed=1)
    other, _ = initialize(Net, seed=2)
    part, nothing = initialize(Net, seed=1, without={"layers/3/kernel", *stats})
    assert part.keys() == params.keys() - {"layers/3/kernel"} and not nothing
    _, by_flax, _ = split_model(Net(nnx.Rngs(jax.random.key(1))))
    for path in part:
        np.testing.assert_array_equal(part[path], params[path])
        np.testing.assert_allclose(by_flax[path], params[path], rtol=1e-6)
    np.testing.assert_array_equal(params["layers/3/kernel"], same["layers/3/kernel"])
    assert (params["layers/3/kernel"] != other["layers/3/kernel"]).all()
