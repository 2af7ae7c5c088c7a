"""Dense features of a frozen CLIP whose last block(s) attend differently.

Every method is one row of `CHANGES` (what stands in place of the attention weights of the last
block, and whether its residual and MLP stay) or one function of its own:

  clip               softmax(q·k), nothing changed
  maskclip           the values themselves, as ClearCLIP re-implements Zhou et al., ECCV 2022
  sclip              softmax(q·q) + softmax(k·k)                      Wang et al., ECCV 2024
  clearclip          softmax(q·q), residual and MLP dropped           Lan et al., ECCV 2024
  naclip             softmax(k·k + Gaussian around the patch), same   Hajimiri et al., WACV 2025
  gem                v·v, k·k and q·q over several blocks             Bousselham et al., CVPR 2024
  proxyclip          likeness of another network's features           Lan et al., ECCV 2024
  maskclip_original  Zhou et al., "Extract Free Dense Labels from CLIP", in their own arithmetic
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ovseg_jax.networks.clip import VisionTransformer
from ovseg_jax.networks.clip_resnet import ModifiedResNet
from ovseg_jax.networks.layers import (
    Attention,
    Block,
    attend,
    attention_scores,
    merge_heads,
    split_heads,
)
from ovseg_jax.ops.resize import resize

Grid = tuple[int, int]  # rows and columns of patches

POSITION_OFFSET = 0.1  # of the position table, see `resize_positions`
_CERTAINTY = 100.0  # MaskCLIP's scale of cosines before a softmax


# --- Attention weights of the last block ------------------------------------------------------
# q, k [B, heads, 1 + N, d] and the grid -> float32 [B, heads, 1 + N, 1 + N]; None = the identity.


def query_key(q: jax.Array, k: jax.Array, grid: Grid) -> jax.Array:
    """CLIP's own."""
    return jax.nn.softmax(attention_scores(q, k), axis=-1)


def query_query(q: jax.Array, k: jax.Array, grid: Grid) -> jax.Array:
    """Queries with themselves."""
    return query_key(q, q, grid)


def key_key(q: jax.Array, k: jax.Array, grid: Grid) -> jax.Array:
    """Keys with themselves."""
    return query_key(k, k, grid)


def correlative(q: jax.Array, k: jax.Array, grid: Grid) -> jax.Array:
    """The sum of both, so rows add up to 2."""
    return query_query(q, k, grid) + key_key(q, k, grid)


def identity(q: jax.Array, k: jax.Array, grid: Grid) -> None:
    """Every token keeps its own value."""
    return None


def nearby_keys(q: jax.Array, k: jax.Array, grid: Grid, *, sigma: float = 5.0) -> jax.Array:
    """Keys with themselves, preferring patches within about `sigma` patches."""
    return jax.nn.softmax(attention_scores(k, k) + neighbourhood(grid, sigma), axis=-1)


def nearby_only(q: jax.Array, k: jax.Array, grid: Grid, *, sigma: float = 5.0) -> jax.Array:
    """NACLIP's ablation: nearness alone, at the mean size that scores have in a picture."""
    # The mean over all pairs of tokens is the product of the means.
    length_q, length_k = (
        jnp.linalg.norm(x.astype(jnp.float32), axis=-1).mean(-1) for x in (q, k)
    )  # [B, heads]
    size = (length_q * length_k).mean(-1) * q.shape[-1] ** -0.5  # [B]
    weights = jax.nn.softmax(size[:, None, None, None] * neighbourhood(grid, sigma), axis=-1)
    return jnp.broadcast_to(weights, (*q.shape[:2], *weights.shape[2:]))


def gaussian(rows: np.ndarray, columns: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of peak 1 over offsets in patches, float32."""
    return np.exp(-(rows**2 + columns**2) / (2 * sigma**2)).astype(np.float32)


def neighbourhood(grid: Grid, sigma: float) -> np.ndarray:
    """Nearness of the patches of a grid, float32 [1 + N, 1 + N]; 0 for the class token."""
    rows, columns = (axis.ravel() for axis in np.indices(grid))
    near = gaussian(rows[:, None] - rows, columns[:, None] - columns, sigma)
    return np.pad(near, ((1, 0), (1, 0)))


@dataclasses.dataclass(frozen=True)
class Change:
    """What a method does to the last block.

    Attributes:
      attention: gives the weights in place of softmax(q·k).
      residual: whether residual and MLP stay.
    """

    attention: Callable
    residual: bool = True


CHANGES = {
    "clip": Change(query_key),
    "maskclip": Change(identity),
    "sclip": Change(correlative),
    "clearclip": Change(query_query, residual=False),
    "naclip": Change(nearby_keys, residual=False),
    "key_key": Change(key_key, residual=False),
    "nearby_only": Change(nearby_only, residual=False),
}


def dense_features(
    tower: VisionTransformer | ModifiedResNet, image: jax.Array, method: str, **options
) -> jax.Array:
    """Projected features of every patch, un-normalised.

    Args:
      tower: CLIP's image tower.
      image: normalised, [B, H, W, 3]; remainders below one patch are cut off.
      method: see the head of this file.
      **options: of the method, see `changed_tokens`, `gem_tokens`, `proxy_features` and
        `maskclip_original`.

    Returns:
      [B, h, w, E]; on the proxy's grid for 'proxyclip'.
    """
    if method == "proxyclip":
        return proxy_features(tower, image, **options)
    if method == "maskclip_original":
        return maskclip_original(tower, image, **options)[0]
    if method == "gem":
        tokens = gem_tokens(tower, image, **options)
    else:
        tokens = changed_tokens(tower, image, method, **options)
    return _on_grid(tokens[:, 1:], tower.grid(image))


def method_options(method: str) -> frozenset[str]:
    """The options that a method takes, those of `refine` among them where it applies."""
    own = {
        "proxyclip": (proxy_features,),
        "maskclip_original": (maskclip_original, refine),
        "gem": (gem_tokens,),
    }
    functions = own.get(method) or (changed_tokens, CHANGES[method].attention)
    return frozenset(
        name
        for function in functions
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in ("proxy", "inputs")
    )


METHODS = (*CHANGES, "gem", "proxyclip", "maskclip_original")


# --- The last block changed -------------------------------------------------------------------


def changed_tokens(
    vit: VisionTransformer,
    image: jax.Array,
    method: str,
    *,
    inputs: Sequence[jax.Array] | None = None,
    residual: bool | None = None,
    blocks: int = 1,
    **options,
) -> jax.Array:
    """All projected tokens, the class token first.

    Args:
      vit: CLIP's image tower.
      image: normalised, [B, H, W, 3].
      method: a key of `CHANGES`.
      inputs: what `block_inputs` gives for the image, if that is known.
      residual: whether residual and MLP stay; None = as the method has it.
      blocks: how many of the last blocks are changed. Each reads what the unchanged ones before
        it give, and what they give is added up.
      **options: of the method's attention, such as `sigma`.

    Returns:
      [B, 1 + N, E].
    """
    change = CHANGES[method]
    residual = change.residual if residual is None else residual
    inputs = block_inputs(vit, image) if inputs is None else inputs
    total = 0.0
    for block, tokens in list(zip(vit.blocks, inputs, strict=True))[-blocks:]:
        q, k, v = heads(block.attention, block.norm1(tokens))
        weights = change.attention(q, k, vit.grid(image), **options)
        y = block.attention.out(merge_heads(v if weights is None else _mix(weights, v)))
        if residual:
            y = tokens + y
            y = y + block.mlp(block.norm2(y))
        total = total + y
    return vit.project(total)


def block_inputs(vit: VisionTransformer, image: jax.Array) -> list[jax.Array]:
    """The tokens that enter each of the blocks, [B, 1 + N, D]."""
    inputs = [embed(vit, image)]
    for block in vit.blocks[:-1]:
        inputs.append(block(inputs[-1]))
    return inputs


def embed(vit: VisionTransformer, image: jax.Array) -> jax.Array:
    """The tokens before the first block, with positions as SCLIP and its followers resize them.

    A table of as many rows serves another shape too (2 x 8 patches for 4 x 4), unresized.
    """
    h, w = vit.grid(image)
    return vit.embed(image, offset=POSITION_OFFSET, keep=h * w == vit.config.grid**2)


def heads(attention: Attention, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values of normed tokens [B, M, D], [B, heads, M, d] each."""
    parts = (attention.query, attention.key, attention.value)
    return tuple(split_heads(part(x), attention.heads) for part in parts)


def _mix(weights: jax.Array, v: jax.Array) -> jax.Array:
    y = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return y.astype(v.dtype)


def _on_grid(patches: jax.Array, grid: Grid) -> jax.Array:
    return patches.reshape(len(patches), *grid, -1)


# --- GEM --------------------------------------------------------------------------------------


def gem_tokens(
    vit: VisionTransformer,
    image: jax.Array,
    *,
    depth: int = 7,
    iterations: int = 1,
    temperature: float | None = None,
    residual: bool = True,
) -> jax.Array:
    """Grounding by self-self attention, in a second stream beside the unchanged one.

    Args:
      vit: CLIP's image tower.
      image: normalised, [B, H, W, 3].
      depth: the last depth - 1 blocks have the second stream, as the authors count; 1 gives CLIP
        itself.
      iterations: how often queries, keys and values move to the mean of those like them.
      temperature: factor on their cosines; None = from the length of the tokens of the picture.
      residual: whether the second stream adds up; False as in ClearCLIP's copy.

    Returns:
      [B, 1 + N, E], the class token first.
    """
    tokens = stream = vit.embed(image, antialias=True)
    for i, block in enumerate(vit.blocks):
        if i > len(vit.blocks) - depth:
            y = _self_self(block, tokens, iterations, temperature)
            stream = stream + y if residual else y
            tokens = block(tokens)
        else:
            tokens = stream = block(tokens)
    return vit.project(stream)


def _self_self(
    block: Block, tokens: jax.Array, iterations: int, temperature: float | None
) -> jax.Array:
    """Mean of the attentions of values, keys and queries with themselves, [B, M, D]."""
    x = block.norm1(tokens)
    q, k, v = heads(block.attention, x)
    if temperature is None:
        length = jnp.linalg.norm(x.astype(jnp.float32), axis=-1).mean(-1)  # [B]
        temperature = length[:, None, None, None] * q.shape[-1] ** -0.5

    def alike(z):
        cosines = jnp.matmul(z, z.swapaxes(-1, -2), preferred_element_type=jnp.float32)
        return jax.nn.softmax(temperature * cosines, axis=-1)

    attended = []
    for z in (v, k, q):
        for _ in range(iterations):
            z = _unit(z)
            z = _mix(alike(z), z)
        attended.append(_mix(alike(_unit(z)), v))
    return block.attention.out(merge_heads(sum(attended) / len(attended)))


def _unit(x: jax.Array, axis: int = -1) -> jax.Array:
    """Unit length along an axis, as PyTorch's `normalize` (at least 1e-12 in the divisor)."""
    length = jnp.linalg.norm(x.astype(jnp.float32), axis=axis, keepdims=True)
    return (x / jnp.maximum(length, 1e-12)).astype(x.dtype)


# --- ProxyCLIP --------------------------------------------------------------------------------


def proxy_features(
    vit: VisionTransformer,
    image: jax.Array,
    *,
    proxy: jax.Array,
    beta: float = 1.2,
    gamma: float = 3.0,
) -> jax.Array:
    """Values of CLIP's last block, gathered by the likeness of another network's features.

    The reference takes the mean likeness over the batch, which is one picture there.

    Args:
      vit: CLIP's image tower.
      image: normalised, [B, H, W, 3].
      proxy: features of the other network, [B, I, J, C].
      beta: patches less alike than this times the mean of the picture do not count.
      gamma: sharpness.

    Returns:
      [B, I, J, E].
    """
    last, tokens = vit.blocks[-1], block_inputs(vit, image)[-1]
    values = last.attention.value(last.norm1(tokens)[:, 1:])  # [B, h·w, D]
    # Heads are parts of the channels, so all are resized at once.
    values = resize(_on_grid(values, vit.grid(image)), proxy.shape[1:3])  # [B, I, J, D]
    values = values.reshape(len(values), -1, values.shape[-1])
    mixed = _mix(_likeness(proxy, beta, gamma), values)  # [B, I·J, D]
    return _on_grid(vit.project(last.attention.out(mixed)), proxy.shape[1:3])


def _likeness(proxy: jax.Array, beta: float, gamma: float) -> jax.Array:
    """Attention weights from cosines above a share of their mean: [B, I, J, C] -> [B, M, M]."""
    unit = _unit(proxy.reshape(len(proxy), -1, proxy.shape[-1]).astype(jnp.float32))
    cosines = unit @ unit.swapaxes(-1, -2)  # [B, M, M]
    scores = gamma * (cosines - beta * cosines.mean((-2, -1), keepdims=True))
    # A patch always counts for itself, or a row could be empty.
    kept = (scores >= 0) | jnp.eye(scores.shape[-1], dtype=bool)
    return jax.nn.softmax(jnp.where(kept, scores, -jnp.inf), axis=-1)


# --- MaskCLIP as published --------------------------------------------------------------------


def maskclip_original(
    tower: VisionTransformer | ModifiedResNet, image: jax.Array, *, attention_pooling: bool = False
) -> tuple[jax.Array, jax.Array | None]:
    """MaskCLIP in its authors' arithmetic.

    Its transformers have GELU and norms with epsilon 1e-6 (`ViTConfig.activation`, `norm_eps`),
    and its pictures ImageNet's statistics.

    Args:
      tower: CLIP's image tower, of either kind.
      image: normalised, [B, H, W, 3]; for a transformer padded at the bottom and on the right with
        zeros to whole patches.
      attention_pooling: ResNet only: positions attend to each other, without positions.

    Returns:
      Features [B, h, w, E] and the keys of `refine` [B, h·w, C], None with attention pooling.
    """
    if isinstance(tower, ModifiedResNet):
        return _pooled(tower, image, attention_pooling)
    image = pad_to_patches(image, tower.config.patch_size)
    values, _, keys = maskclip_parts(tower, image)
    projected = values @ tower.projection[...].astype(values.dtype)
    return _on_grid(projected, tower.grid(image)), keys


def pad_to_patches(image: jax.Array, patch: int) -> jax.Array:
    """Fills the last incomplete patches with zeros: [B, H, W, 3] -> multiples of the patch."""
    rows, columns = (-n % patch for n in image.shape[1:3])
    return jnp.pad(image, ((0, 0), (0, rows), (0, columns), (0, 0)))


def maskclip_parts(
    vit: VisionTransformer, image: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normed values, queries and keys of the patches in the last block, [B, N, D] each.

    Each has passed through the output projection, the values through residual and MLP too.
    """
    h, w = vit.grid(image)
    tokens = vit.embed(image, keep=h * w == vit.config.grid**2)
    for block in vit.blocks[:-1]:
        tokens = block(tokens)
    last, attention = vit.blocks[-1], vit.blocks[-1].attention
    x = last.norm1(tokens)
    q, k, v = (attention.out(f(x)) for f in (attention.query, attention.key, attention.value))
    v = tokens + v
    v = vit.norm_post(v + last.mlp(last.norm2(v)))
    return v[:, 1:], q[:, 1:], k[:, 1:]


def _pooled(
    resnet: ModifiedResNet, image: jax.Array, attention_pooling: bool
) -> tuple[jax.Array, jax.Array | None]:
    """What the attention pool makes of each position, [B, h, w, E], and keys [B, h·w, C]."""
    pool, x = resnet.attention_pool, resnet.features(image)[-1]
    positions = x.reshape(len(x), -1, x.shape[-1])  # [B, h·w, C]
    if not attention_pooling:
        return pool.dense(x), pool.key(positions)
    tokens = jnp.concatenate([positions.mean(1, keepdims=True), positions], axis=1)
    q, k, v = (split_heads(f(tokens), pool.heads) for f in (pool.query, pool.key, pool.value))
    return _on_grid(pool.out(merge_heads(attend(q, k, v)))[:, 1:], x.shape[1:3]), None


def refine(
    cosines: jax.Array,
    keys: jax.Array | None,
    real: jax.Array,
    *,
    prompt_denoising: float = 0.0,
    key_smoothing: float = 0.0,
    normalize_channels: bool = False,
) -> jax.Array:
    """MaskCLIP's two refinements of its scores, both off by default.

    Args:
      cosines: float32 [B, h, w, N].
      keys: [B, h·w, C], or None for no smoothing.
      real: bool [N], which of the names are no padding.
      prompt_denoising: names that are nowhere more likely than this get -100 everywhere.
      key_smoothing: positions whose best name is less likely than this take a sum over all
        positions, weighted by the likeness of keys. Scores are probabilities from then on.
      normalize_channels: whether keys have unit length. In the published code each channel has
        unit length over the positions instead, so that weights are no cosines.

    Returns:
      float32 [B, h, w, N].
    """

    def certainty(scores):
        return jax.nn.softmax(jnp.where(real, _CERTAINTY * scores, -jnp.inf), axis=-1)

    if prompt_denoising:
        best = certainty(cosines).max((1, 2), keepdims=True)  # [B, 1, 1, N]
        cosines = jnp.where(best < prompt_denoising, -100.0, cosines)
    if keys is None or not key_smoothing:
        return cosines
    likely = certainty(cosines)
    flat = likely.reshape(len(likely), -1, likely.shape[-1])  # [B, h·w, N]
    keys = _unit(keys.astype(jnp.float32), axis=-1 if normalize_channels else 1)
    smooth = keys @ (keys.swapaxes(-1, -2) @ flat)
    unsure = likely.max(-1, keepdims=True) < key_smoothing
    return jnp.where(unsure, smooth.reshape(likely.shape), likely)
