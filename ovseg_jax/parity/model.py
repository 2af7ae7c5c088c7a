"""What the comparisons of all systems share: models from recorded tensors, and gradients."""

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ovseg_jax.convert.name_map import NameMap
from ovseg_jax.params import Flat, abstract_model, merge_model


def names(arrays: Mapping[str, np.ndarray], prefix: str) -> list[str]:
    """The keys that start with `prefix`, without it."""
    return [key.removeprefix(prefix) for key in arrays if key.startswith(prefix)]


def tensors(arrays: Mapping[str, np.ndarray], prefix: str = "param/") -> dict[str, np.ndarray]:
    """The source's tensors of a file, by name."""
    return {name: arrays[prefix + name] for name in names(arrays, prefix)}


def load_model(
    create: Callable[[nnx.Rngs], nnx.Module],
    name_map: NameMap,
    theirs: Mapping[str, np.ndarray],
    parts: Iterable[str] = ("",),
) -> tuple[nnx.GraphDef, Flat]:
    """A model's graph, and its parameters and statistics, filled through the name map.

    Args:
      create: builds the model.
      name_map: of the source.
      theirs: the source's tensors.
      parts: prefixes of the parameter paths that the source must fill; the others are zero.
    """
    graphdef, params, stats = abstract_model(create)
    shapes = {**params, **stats}
    expected = {path: leaf.shape for path, leaf in shapes.items() if path.startswith(tuple(parts))}
    given = name_map.inward(theirs, expected)
    return graphdef, {
        path: jnp.asarray(given[path], leaf.dtype)
        if path in given
        else jnp.zeros(leaf.shape, leaf.dtype)
        for path, leaf in shapes.items()
    }


def gradients(
    graphdef: nnx.GraphDef,
    params: Flat,
    name_map: NameMap,
    wanted: Iterable[str],
    loss_of: Callable[[nnx.Module], jax.Array],
) -> tuple[jax.Array, dict[str, np.ndarray]]:
    """The loss and its gradients with respect to the parameters behind source names.

    Args:
      graphdef: of the model.
      params: all parameters.
      name_map: of the source.
      wanted: the source's names.
      loss_of: model -> scalar.

    Returns:
      The loss, and the gradients by source name and in the source's layout.
    """
    paths = {path for name in wanted for path in name_map.paths(name) or ()}
    chosen = {path: params[path] for path in paths}
    rest = {path: value for path, value in params.items() if path not in paths}

    @jax.jit
    def value_and_grad(chosen, rest):  # as an argument, or XLA would evaluate frozen towers itself
        return jax.value_and_grad(lambda p: loss_of(merge_model(graphdef, {**p, **rest})))(chosen)

    value, grads = value_and_grad(chosen, rest)
    return value, name_map.outward(grads)


def to_nhwc(image: np.ndarray) -> jax.Array:
    """[B, C, H, W] -> [B, H, W, C]."""
    return jnp.asarray(image, jnp.float32).transpose(0, 2, 3, 1)


def to_nchw(image: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, C, H, W]."""
    return image.transpose(0, 3, 1, 2)
