"""Building blocks of the transformers, exact against PyTorch.

Parameters are float32 and are cast to the type of the activations where they are used, so the
compute type is chosen once, where a network embeds its input. Softmax and the statistics of norms
are float32 always. Modules hold no random state: a call that needs randomness takes
``rngs: nnx.Rngs | None`` and None means deterministic.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

Initializer = Callable[[jax.Array, tuple[int, ...], jnp.dtype], jax.Array]


def fan_in_uniform(fan_in: int) -> Initializer:
    """PyTorch's default for Linear and Conv, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), bias included."""
    bound = 1.0 / math.sqrt(fan_in)

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def fused_xavier_uniform(dim: int, fused: int = 3) -> Initializer:
    """Xavier-uniform bound of a fused [fused * dim, dim] matrix, for one of its parts.

    PyTorch's multi-head attention initialises query, key and value as one matrix, so the bound is
    smaller than that of a single [dim, dim] matrix.
    """
    bound = math.sqrt(6.0 / ((1 + fused) * dim))

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normal(stddev: float) -> Initializer:
    """N(0, stddev²)."""
    return jax.nn.initializers.normal(stddev)


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's approximation of GELU, x * sigmoid(1.702 x)."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """GELU in its exact form (error function)."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu, "relu": jax.nn.relu}


def dropout(x: jax.Array, rate: float, rngs: nnx.Rngs | None) -> jax.Array:
    """Zeroes entries with probability `rate` and scales the others by 1 / (1 - rate).

    The identity when `rngs` is None or `rate` is 0. The key is drawn from the stream "dropout".
    """
    if rngs is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(rngs.dropout(), 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0.0).astype(x.dtype)


class Linear(nnx.Module):
    """y = x @ kernel + bias with kernel [in, out]; PyTorch's default initialisation."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = True,
        kernel_init: Initializer | None = None,
        bias_init: Initializer | None = None,
    ):
        default = fan_in_uniform(in_dim)
        self.kernel = nnx.Param(
            (kernel_init or default)(rngs.params(), (in_dim, out_dim), jnp.float32)
        )
        self.bias = (
            nnx.Param((bias_init or default)(rngs.params(), (out_dim,), jnp.float32))
            if bias
            else None
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., in] to [..., out], in the type of `x`."""
        y = x @ self.kernel[...].astype(x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Conv(nnx.Module):
    """Convolution, kernel [size, size, in, out], padded so that 1/stride remains.

    The kernel has PyTorch's default initialisation, a bias begins at zero.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        size: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        bias: bool = False,
        kernel_init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        init = kernel_init or fan_in_uniform(in_dim * size * size)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, in_dim, out_dim), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((out_dim,), jnp.float32)) if bias else None
        self.stride = stride
        self.dilation = dilation

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, H, W, in] to [B, ceil(H/stride), ceil(W/stride), out], in the type of `x`."""
        y = convolve(x, self.kernel[...], stride=self.stride, dilation=self.dilation)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def convolve(x: jax.Array, kernel: jax.Array, *, stride: int = 1, dilation: int = 1) -> jax.Array:
    """[B, H, W, in] and [size, size, in, out] -> [B, ceil(H/stride), ceil(W/stride), out]."""
    kernel = kernel.astype(x.dtype)
    if kernel.shape[0] == 1:
        # XLA forms the kernel's gradient of a product up to four times faster on CPU.
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    padding = dilation * (kernel.shape[0] - 1) // 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, with PyTorch's running statistics."""

    def __init__(
        self,
        dim: int,
        *,
        eps: float = 1e-5,
        momentum: float = 0.1,
        scale_init: Callable = jax.nn.initializers.ones,
    ):
        self.scale = nnx.Param(scale_init(jax.random.key(0), (dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros((dim,), jnp.float32))
        self.variance = nnx.BatchStat(jnp.ones((dim,), jnp.float32))
        self.eps = eps
        self.momentum = momentum

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Normalises [..., D], in the type of `x`.

        With `train` the statistics are those of the batch, of all devices together, and the
        running ones move towards them (the variance towards the unbiased one).
        """
        wide = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.variance[...]
        if train:
            axes = tuple(range(x.ndim - 1))
            mean, variance = wide.mean(axes), wide.var(axes)
            count = x.size // x.shape[-1]
            self._remember(mean, variance * count / (count - 1))
        y = (wide - mean) * (jax.lax.rsqrt(variance + self.eps) * self.scale[...])
        return (y + self.bias[...]).astype(x.dtype)

    def _remember(self, mean: jax.Array, variance: jax.Array) -> None:
        for running, value in ((self.mean, mean), (self.variance, variance)):
            running[...] = running[...] + self.momentum * (value - running[...])


def average_pool(x: jax.Array, size: int) -> jax.Array:
    """Means of size x size squares, [B, H, W, C] -> [B, H // size, W // size, C]."""
    if size == 1:
        return x
    b, height, width, c = x.shape
    h, w = height // size, width // size
    squares = x[:, : h * size, : w * size].reshape(b, h, size, w, size, c)
    return squares.mean((2, 4))


def max_pool(x: jax.Array) -> jax.Array:
    """Maxima of 3 x 3 squares, every second: [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C]."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


class GroupNorm(nnx.Module):
    """Normalisation over the positions and each group of neighbouring channels of a picture.

    Statistics in two passes in float32, as in `LayerNorm`.
    """

    def __init__(self, dim: int, groups: int = 32, *, eps: float = 1e-5):
        if dim % groups:
            raise ValueError(f"{dim} channels cannot be split into {groups} equal groups")
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.groups = groups
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [B, H, W, C], in the type of `x`."""
        b, h, w, c = x.shape
        wide = x.astype(jnp.float32).reshape(b, h * w, self.groups, c // self.groups)
        centred = wide - wide.mean((1, 3), keepdims=True)
        variance = jnp.square(centred).mean((1, 3), keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis.

    The variance is the mean of squared deviations (two passes) in float32: the one-pass form loses
    all digits where the mean is large against the deviation.
    """

    def __init__(self, dim: int, *, eps: float = 1e-5):
        self.scale = nnx.Param(jnp.ones((dim,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((dim,), jnp.float32))
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., D], in the type of `x`."""
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.eps) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class BlockInit:
    """Initialisers of the kernels of a `Block`; None = PyTorch's default of that layer."""

    qkv: Initializer | None = None
    out: Initializer | None = None
    fc1: Initializer | None = None
    fc2: Initializer | None = None


class Attention(nnx.Module):
    """Multi-head attention with biases, `heads` outermost in the channel axis."""

    def __init__(self, dim: int, heads: int, *, rngs: nnx.Rngs, init: BlockInit = BlockInit()):
        if dim % heads:
            raise ValueError(f"width {dim} is not a multiple of {heads} heads")
        zeros = jax.nn.initializers.zeros
        qkv = init.qkv or fused_xavier_uniform(dim)
        self.query = Linear(dim, dim, rngs=rngs, kernel_init=qkv, bias_init=zeros)
        self.key = Linear(dim, dim, rngs=rngs, kernel_init=qkv, bias_init=zeros)
        self.value = Linear(dim, dim, rngs=rngs, kernel_init=qkv, bias_init=zeros)
        self.out = Linear(dim, dim, rngs=rngs, kernel_init=init.out, bias_init=zeros)
        self.heads = heads

    def __call__(
        self,
        x: jax.Array,
        keys: jax.Array | None = None,
        values: jax.Array | None = None,
        *,
        causal: bool = False,
        dropout_rate: float = 0.0,
        rngs: nnx.Rngs | None = None,
    ) -> jax.Array:
        """Tokens attend to themselves or to others.

        Args:
          x: what asks, [B, N, D].
          keys: what is compared with it, [B, M, D]; None = `x`.
          values: what answers, [B, M, D]; None = `keys`.
          causal: whether later tokens are hidden from earlier ones.
          dropout_rate: on the attention weights.
          rngs: None = no dropout.

        Returns:
          [B, N, D].
        """
        keys = x if keys is None else keys
        values = keys if values is None else values
        pairs = ((self.query, x), (self.key, keys), (self.value, values))
        q, k, v = (split_heads(project(tokens), self.heads) for project, tokens in pairs)
        y = attend(q, k, v, causal=causal, dropout_rate=dropout_rate, rngs=rngs)
        return self.out(merge_heads(y))


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """[B, N, D] -> [B, heads, N, D / heads]."""
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def merge_heads(x: jax.Array) -> jax.Array:
    """[B, heads, N, d] -> [B, N, heads * d]."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)


def attention_scores(q: jax.Array, k: jax.Array) -> jax.Array:
    """Scaled products before the softmax, float32 [B, heads, N, M]."""
    q = q * q.shape[-1] ** -0.5
    return jnp.matmul(q, k.swapaxes(-1, -2), preferred_element_type=jnp.float32)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    dropout_rate: float = 0.0,
    rngs: nnx.Rngs | None = None,
) -> jax.Array:
    """softmax(q kᵀ / sqrt(d)) v for q [B, heads, N, d] and k, v [B, heads, M, d].

    The softmax is divided by its sum after the product with the values: the division then runs
    over N x d instead of N x M numbers (on CPU at 1125 tokens forward and backward take 0.65 of
    the time of `jax.nn.dot_product_attention`).
    """
    scores = attention_scores(q, k)
    if causal:
        scores = jnp.where(jnp.tri(*scores.shape[-2:], dtype=bool), scores, -jnp.inf)
    # The shift cancels, so no gradient needs to flow through the maximum.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)
    weights = dropout(weights, dropout_rate, rngs)
    y = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (y / total).astype(v.dtype)


class Mlp(nnx.Module):
    """Two Linear layers with an activation, and on request dropout, between them."""

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        rngs: nnx.Rngs,
        activation: str = "gelu",
        init: BlockInit = BlockInit(),
    ):
        self.fc1 = Linear(dim, hidden, rngs=rngs, kernel_init=init.fc1)
        self.fc2 = Linear(hidden, dim, rngs=rngs, kernel_init=init.fc2)
        self.activation = activation

    def __call__(
        self, x: jax.Array, dropout_rate: float = 0.0, rngs: nnx.Rngs | None = None
    ) -> jax.Array:
        """Tokens [..., D] -> [..., D]."""
        hidden = ACTIVATIONS[self.activation](self.fc1(x))
        return self.fc2(dropout(hidden, dropout_rate, rngs))


class Block(nnx.Module):
    """Pre-norm transformer block: x += attention(norm1 x); x += mlp(norm2 x)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        rngs: nnx.Rngs,
        activation: str = "gelu",
        init: BlockInit = BlockInit(),
        eps: float = 1e-5,
    ):
        self.norm1 = LayerNorm(dim, eps=eps)
        self.attention = Attention(dim, heads, rngs=rngs, init=init)
        self.norm2 = LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim, rngs=rngs, activation=activation, init=init)

    def __call__(self, x: jax.Array, *, causal: bool = False) -> jax.Array:
        """Tokens [B, N, D] -> [B, N, D]."""
        x = x + self.attention(self.norm1(x), causal=causal)
        return x + self.mlp(self.norm2(x))
