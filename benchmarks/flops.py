"""Floating-point operations of ZegCLIP and of a frozen CLIP, counted from the architecture.

Counted are the matrix products of the networks, one multiplication and one addition each:

- a Linear layer on r rows takes 2·r·in·out forward; backward the same again for the gradient of its
  input, where something before it trains, and once more for its weights, where they train;
- attention takes 2·2·q·k·width forward (scores and mixture) and twice that backward.

Left out is what a better program could avoid or what runs at the speed of memory: activations,
softmax, norms, losses, resizing (two taps per axis if done sparsely), recomputation. So the rate
that is derived from the count understates the work really done, never overstates it. The optimizer
counts where it multiplies matrices (Muon).

`traced` counts the products of any function from what JAX traces.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax.extend.core import jaxprs_in_params
from jax.interpreters import partial_eval
from ml_collections import ConfigDict

_MUON_ITERATIONS = 5


@dataclass(frozen=True)
class Work:
    """FLOPs of a part, forward and backward."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, factor: float) -> "Work":
        return Work(self.forward * factor, self.backward * factor)

    @property
    def total(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


def linear(rows: int, inputs: int, outputs: int, *, trained: bool, flows: bool = True) -> Work:
    """A matrix of weights; `flows`: a gradient is wanted at the input."""
    forward = 2.0 * rows * inputs * outputs
    return Work(forward, forward * (trained + flows))


def attention(queries: int, keys: int, width: int) -> Work:
    """Scores and mixture of all heads."""
    forward = 4.0 * queries * keys * width
    return Work(forward, 2 * forward)


def block(tokens: int, width: int) -> Work:
    """A frozen transformer block with something trained before it."""
    projections = linear(tokens, width, width, trained=False) * 4
    mlp = linear(tokens, width, 4 * width, trained=False) * 2
    return projections + attention(tokens, tokens, width) + mlp


def image_encoder(config: ConfigDict, patches: int) -> Work:
    """The frozen image transformer with its prompts, if any, for one picture.

    The projection of the prompts is left out: it does not grow with the batch.
    """
    system, vit = config.system, config.system.clip.image
    prompts, depth = system.get("prompt_tokens", 0), system.get("prompt_depth", 0)
    width = vit.width
    work = linear(patches, 3 * vit.patch_size**2, width, trained=False, flows=False)
    for layer in range(vit.layers):
        prompted = layer <= depth or not depth
        work += block(1 + patches + prompted * prompts, width)
    return work + linear(1 + patches, width, system.clip.embed_dim, trained=False)


def prompt_projection(config: ConfigDict) -> Work:
    """The trained projection of the prompts of all layers, once per step."""
    system, width = config.system, config.system.clip.image.width
    rows = (1 + system.prompt_depth) * system.prompt_tokens
    return linear(rows, width, width, trained=True)


def decoder(config: ConfigDict, patches: int, classes: int) -> Work:
    """The relationship decoder, for one picture; of its last layer only the scores are used."""
    system = config.system
    dim, hidden = system.clip.embed_dim, system.decoder_hidden

    def dense(rows, inputs, outputs):
        return linear(rows, inputs, outputs, trained=True)

    scores = attention(classes, patches, dim) * 0.5
    queries = dense(classes, dim, dim)
    memory = dense(patches, dim, dim)
    last = queries + memory + scores
    mixture = memory + attention(classes, patches, dim) * 0.5 + queries
    mlp = dense(classes, dim, hidden) + dense(classes, hidden, dim)
    inputs = 2 * dim if system.relationship_descriptor else dim
    layers = system.decoder_layers
    return dense(classes, inputs, dim) + last * layers + (mixture + mlp) * (layers - 1)


def optimizer(config: ConfigDict, shapes: dict[str, tuple[int, ...]]) -> float:
    """Products of Muon's Newton-Schulz iterations (X Xᵀ, its square, both times X)."""
    if config.optimizer.name != "muon":
        return 0.0
    pattern = config.optimizer.muon.pattern
    matrices = [s for path, s in shapes.items() if len(s) == 2 and re.search(pattern, path)]
    sides = [(min(shape), max(shape)) for shape in matrices]
    return sum(_MUON_ITERATIONS * (4.0 * m * m * n + 2.0 * m**3) for m, n in sides)


def train_step(
    config: ConfigDict, patches: int, classes: int, batch: int, shapes: dict[str, tuple[int, ...]]
) -> Work:
    """A whole training step of a batch; `shapes` are those of the trained parameters by path."""
    picture = image_encoder(config, patches) + decoder(config, patches, classes)
    once = prompt_projection(config) + Work(0.0, optimizer(config, shapes))
    return picture * batch + once


def window(config: ConfigDict, patches: int, names: int) -> float:
    """One window of inference."""
    if config.system.name == "training_free":  # the method's change to the last block costs little
        cosines = linear(patches, config.system.clip.embed_dim, names, trained=False)
        return (image_encoder(config, patches) + cosines).forward
    picture = image_encoder(config, patches) + decoder(config, patches, names)
    return picture.forward + prompt_projection(config).forward


# --- Counted in the program --------------------------------------------------------------------


def traced(function: Callable, *arguments) -> float:
    """FLOPs of the products and convolutions that contribute to the results of a function.

    Loops are unrolled; one whose length is data counts once.
    """
    jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
    return _products(partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0])


def _products(jaxpr) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _PRODUCTS:
            inner = _PRODUCTS[equation.primitive.name](equation)
            total += 2.0 * inner * math.prod(equation.outvars[0].aval.shape)
        times = equation.params.get("length", 1)
        total += times * sum(_products(sub) for sub in jaxprs_in_params(equation.params))
    return total


def _contracted(equation) -> float:
    """Products that each entry of a matrix product sums."""
    (axes, _), _ = equation.params["dimension_numbers"]
    return math.prod(equation.invars[0].aval.shape[axis] for axis in axes)


def _taps(equation) -> float:
    """Products that each entry of a convolution sums, those with the zeros of a dilation aside."""
    kernel = equation.invars[1].aval.shape
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return math.prod(kernel) / outputs / math.prod(equation.params["lhs_dilation"])


_PRODUCTS = {"dot_general": _contracted, "conv_general_dilated": _taps}
