"""Cross-entropy with integer labels in float32, as sums: label smoothing, z-loss, and a form that never holds all the logits.

Conventions. Label smoothing e mixes the one-hot target with the uniform distribution over all V classes, the gold one included (as in
PyTorch): loss = (1 - e) * nll + e * (log Z - mean of the logits). z-loss adds z * (log Z)^2 (de Brebisson & Vincent 2016, PaLM). Positions
of weight 0 count for nothing; their labels may be any integer. Sums stay sums: divide by `weight` only when everything has been added up.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from decoder_lab.core import axes


class Sums(NamedTuple):
    """Weighted float32 sums over all positions. Only `loss` carries gradients."""

    loss: jax.Array  # what is trained: smoothing and z-loss included
    nll: jax.Array  # plain negative log-likelihood of the labels, nats
    correct: jax.Array  # positions where the label is the argmax: the first of those classes that score highest
    weight: jax.Array


def cross_entropy(
    logits_BTV: jax.Array,
    labels_BT: jax.Array,
    weights_BT: jax.Array | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Sums:
    """Returns the sums over a batch of logits (any float dtype) and integer labels; weights default to 1."""
    if weights_BT is None:
        weights_BT = jnp.ones(labels_BT.shape, jnp.float32)
    weights_BT = weights_BT.astype(jnp.float32)
    labels_BT = _safe(labels_BT, weights_BT)
    loss_BT, nll_BT, correct_BT = _token_losses(logits_BTV, labels_BT, label_smoothing, z_loss)
    return _sums(loss_BT, nll_BT, correct_BT, weights_BT)


def _safe(labels_BT, weights_BT):
    return jnp.where(weights_BT == 0, jnp.zeros_like(labels_BT), labels_BT)


def _sums(loss_BT, nll_BT, correct_BT, weights_BT) -> Sums:
    # where, not only a product: a position without weight must not bring in a NaN
    def total(x_BT):
        return jnp.sum(jnp.where(weights_BT == 0, 0.0, x_BT * weights_BT))

    reported = (jax.lax.stop_gradient(total(x_BT)) for x_BT in (nll_BT, correct_BT))
    return Sums(total(loss_BT), *reported, jax.lax.stop_gradient(jnp.sum(weights_BT)))


def _parts(logits_BTV, labels_BT, label_smoothing: float, z_loss: float):
    """Returns float32 (loss_BT, nll_BT, correct_BT, log_z_BT)."""
    logits_BTV = logits_BTV.astype(jnp.float32)
    top_BT = jnp.max(logits_BTV, axis=-1)
    log_z_BT = top_BT + jnp.log(jnp.sum(jnp.exp(logits_BTV - top_BT[..., None]), axis=-1))
    gold_BT = jnp.take_along_axis(logits_BTV, labels_BT[..., None], axis=-1)[..., 0]
    nll_BT = log_z_BT - gold_BT
    loss_BT = nll_BT
    if label_smoothing:
        loss_BT = (1 - label_smoothing) * nll_BT + label_smoothing * (log_z_BT - jnp.mean(logits_BTV, axis=-1))
    if z_loss:
        loss_BT = loss_BT + z_loss * jnp.square(log_z_BT)
    return loss_BT, nll_BT, _is_argmax(logits_BTV, labels_BT, gold_BT).astype(jnp.float32), log_z_BT


def _is_argmax(logits_BTV, labels_BT, gold_BT):
    """Returns argmax(logits) == labels, in one plain pass: XLA's own argmax costs several times as much on a CPU."""
    earlier_BTV = _classes(logits_BTV, labels_BT) < labels_BT[..., None]
    return jnp.all(jnp.where(earlier_BTV, logits_BTV < gold_BT[..., None], logits_BTV <= gold_BT[..., None]), axis=-1)


def _classes(logits_BTV, labels_BT):
    """Returns 0, 1, ... along the classes, of the rank of the logits and the dtype of the labels."""
    return jnp.arange(logits_BTV.shape[-1], dtype=labels_BT.dtype)[(None,) * labels_BT.ndim]


def _logits_gradient(logits_BTV, labels_BT, log_z_BT, cotangent_BT, label_smoothing: float, z_loss: float):
    """Returns d loss / d logits * cotangent, one fused pass: softmax * (1 + 2 z log Z) - (1 - e) onehot - e / V; 0 where that is 0."""
    probabilities_BTV = jnp.exp(logits_BTV.astype(jnp.float32) - log_z_BT[..., None])
    if z_loss:
        probabilities_BTV *= (1 + 2 * z_loss * log_z_BT)[..., None]
    is_gold_BTV = labels_BT[..., None] == _classes(logits_BTV, labels_BT)
    target_BTV = jnp.where(is_gold_BTV, jnp.float32(1 - label_smoothing), jnp.float32(0.0)) + label_smoothing / logits_BTV.shape[-1]
    # where, not only a product: see `_sums`
    gradient_BTV = jnp.where(cotangent_BT[..., None] == 0, 0.0, (probabilities_BTV - target_BTV) * cotangent_BT[..., None])
    return gradient_BTV.astype(logits_BTV.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _token_losses(logits_BTV, labels_BT, label_smoothing: float, z_loss: float):
    """The loss of each token. Its own derivative, because that of a gather is a scatter into a second array of the size of the logits."""
    return _parts(logits_BTV, labels_BT, label_smoothing, z_loss)[:3]


def _token_losses_forward(logits_BTV, labels_BT, label_smoothing, z_loss):
    *losses, log_z_BT = _parts(logits_BTV, labels_BT, label_smoothing, z_loss)
    return tuple(losses), (logits_BTV, labels_BT, log_z_BT)


def _token_losses_backward(label_smoothing, z_loss, saved, cotangents):
    return _logits_gradient(*saved, cotangents[0], label_smoothing, z_loss), None


_token_losses.defvjp(_token_losses_forward, _token_losses_backward)


def chunked_cross_entropy(
    unembed: Callable[[jax.Array], jax.Array],
    hidden_BTD: jax.Array,
    labels_BT: jax.Array,
    weights_BT: jax.Array | None = None,
    *,
    chunk: int,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Sums:
    """Equals `cross_entropy(unembed(hidden_BTD), ...)`, with the logits of only `chunk` time steps in memory at once.

    unembed: hidden_BTD -> logits_BTV, for any T; it may close over parameters, which receive their gradients. When differentiated, the
    gradients are computed chunk by chunk inside the forward pass, so that no logits are computed twice. On a mesh
    every device goes through the chunks of its own rows and its own time; what they found is added up once, after the last chunk.
    """
    if weights_BT is None:
        weights_BT = jnp.ones(labels_BT.shape, jnp.float32)
    weights_BT = weights_BT.astype(jnp.float32)
    labels_BT = _safe(labels_BT, weights_BT)
    extra = -labels_BT.shape[1] % chunk  # the last chunk is filled up with positions of weight 0
    if extra:
        labels_BT, weights_BT = (jnp.pad(x, ((0, 0), (0, extra))) for x in (labels_BT, weights_BT))
        hidden_BTD = jnp.pad(hidden_BTD, ((0, 0), (0, extra), (0, 0)))
    rows, _ = _num_parts(hidden_BTD, chunk)
    pure_unembed, closed_over = jax.closure_convert(unembed, hidden_BTD[: len(hidden_BTD) // rows, :chunk])  # of the shape that it gets
    loss, nll, correct = _chunked(pure_unembed, chunk, label_smoothing, z_loss, hidden_BTD, closed_over, labels_BT, weights_BT)
    reported = (jax.lax.stop_gradient(x) for x in (nll, correct, jnp.sum(weights_BT)))
    return Sums(loss, *reported)


def either_cross_entropy(
    unembed: Callable[[jax.Array], jax.Array], outputs_BTX: jax.Array, *labels_weights: jax.Array, chunk: int, **kw
) -> Sums:
    """Returns `cross_entropy` of outputs that are logits or, with a `chunk`, `chunked_cross_entropy` of hidden states."""
    if chunk:
        return chunked_cross_entropy(unembed, outputs_BTX, *labels_weights, chunk=chunk, **kw)
    return cross_entropy(outputs_BTX, *labels_weights, **kw)


def _chunks(chunk: int, *arrays) -> tuple[jax.Array, ...]:
    """Splits axis 1 of each array into chunks and moves them to the front: [B, T, ...] -> [T / chunk, B, chunk, ...]."""
    return tuple(jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0) for x in arrays)


def _num_parts(x_BTX: jax.Array, chunk: int) -> tuple[int, int]:
    """Returns into how many parts of its rows and of its time a mesh splits a batch; 1 where they would not be equal."""
    sizes = jax.typeof(x_BTX).sharding.mesh.shape
    rows, times = math.prod(sizes.get(name, 1) for name in axes.ROWS), sizes.get(axes.TIME, 1)
    return rows if len(x_BTX) % rows == 0 else 1, times if x_BTX.shape[1] % (times * chunk) == 0 else 1


def _by_device(function: Callable, chunk: int, *batches_BT: jax.Array) -> tuple[Any, Any]:
    """Returns (totals, array_BT) of `function(*batches_BT)`, computed on each device's part of the batch before the totals are summed.

    XLA would otherwise sum over the devices inside the loop over chunks: the gradient of the whole unembedding, once for each chunk.
    The time of a part must be a multiple of the chunk, where a mesh splits time; otherwise the loop runs over all of it.
    """
    batch_size, length = batches_BT[0].shape[:2]
    rows, times = _num_parts(batches_BT[0], chunk)
    if rows == times == 1:
        return function(*batches_BT)

    def parts(x: jax.Array) -> jax.Array:
        return x.reshape(rows, batch_size // rows, times, length // times, *x.shape[2:]).swapaxes(1, 2)

    totals, array = jax.vmap(jax.vmap(function))(*map(parts, batches_BT))
    whole = jax.tree.map(lambda x: x.swapaxes(1, 2).reshape(batch_size, length, *x.shape[4:]), array)
    return jax.tree.map(lambda x: jnp.sum(x, axis=(0, 1)), totals), whole


def _gathered(arrays: Sequence[jax.Array], hidden_BTD: jax.Array) -> list[jax.Array]:
    """Returns the parameters' arrays with the dimension of the hidden width whole on every device: sent once, not once for each chunk."""
    mesh, width = jax.typeof(hidden_BTD).sharding.mesh, hidden_BTD.shape[-1]
    if mesh.shape.get(axes.PIECES, 1) == 1:
        return list(arrays)

    def whole(x: jax.Array) -> jax.Array:
        spec = PartitionSpec(*(None if size == width else PartitionSpec.UNCONSTRAINED for size in x.shape))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return [whole(x) for x in arrays]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _chunked(unembed, chunk, label_smoothing, z_loss, hidden_BTD, closed_over, labels_BT, weights_BT):
    closed_over = _gathered(closed_over, hidden_BTD)

    def add_chunk(totals, inputs):
        hidden, labels, weights = inputs
        losses = _parts(unembed(hidden, *closed_over), labels, label_smoothing, z_loss)[:3]
        return tuple(total + part for total, part in zip(totals, _sums(*losses, weights)[:3], strict=True)), None

    def over_chunks(*batches_BT):
        return jax.lax.scan(add_chunk, (jnp.zeros((), jnp.float32),) * 3, _chunks(chunk, *batches_BT))[0], ()

    return _by_device(over_chunks, chunk, hidden_BTD, labels_BT, weights_BT)[0]


def _chunked_forward(unembed, chunk, label_smoothing, z_loss, hidden_BTD, closed_over, labels_BT, weights_BT):
    closed_over = _gathered(closed_over, hidden_BTD)

    def add_chunk(carry, inputs):
        totals, closed_over_gradients = carry
        hidden, labels, weights = inputs
        logits, pull_back = jax.vjp(unembed, hidden, *closed_over)
        *losses, log_z = _parts(logits, labels, label_smoothing, z_loss)
        hidden_gradient, *new = pull_back(_logits_gradient(logits, labels, log_z, weights, label_smoothing, z_loss))
        totals = tuple(total + part for total, part in zip(totals, _sums(*losses, weights)[:3], strict=True))
        return (totals, jax.tree.map(jnp.add, closed_over_gradients, new)), hidden_gradient

    def over_chunks(*batches_BT):
        zeros = (jnp.zeros((), jnp.float32),) * 3, jax.tree.map(jnp.zeros_like, list(closed_over))
        sums, hidden_gradients = jax.lax.scan(add_chunk, zeros, _chunks(chunk, *batches_BT))
        return sums, jnp.moveaxis(hidden_gradients, 0, 1).reshape(batches_BT[0].shape)

    (totals, gradients), hidden_gradient_BTD = _by_device(over_chunks, chunk, hidden_BTD, labels_BT, weights_BT)
    return totals, (hidden_gradient_BTD, gradients)


def _chunked_backward(unembed, chunk, label_smoothing, z_loss, saved, cotangents):
    hidden_gradient, gradients = jax.tree.map(lambda x: (x * cotangents[0]).astype(x.dtype), saved)
    return hidden_gradient, gradients, None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)
