"""Attention by static blocks of queries, with a backward pass of its own that keeps the unnormalised weights.

Each block of queries meets only the span of keys that it may see, so that a causal mask saves work instead of hiding it. Dividing by the
normaliser is left to the outputs (H wide) and kept away from the weights (S wide): forward and backward touch those as seldom as possible,
which is what attention costs on a CPU.
"""

import functools

import jax
import jax.numpy as jnp

from decoder_lab.ops.masks import MASKED

Spans = tuple[tuple[int, int, int, int], ...]  # (first query, end, first key, end) of each block


def spans(num_queries: int, num_keys: int, block: int, *, causal: bool, window: int | None) -> Spans:
    """Returns the blocks, with spans of keys that begin at block borders; `causal` is by row (num_queries == num_keys)."""
    found = []
    for start in range(0, num_queries, block):
        end = min(start + block, num_queries)
        first = 0 if window is None or not causal else max(0, start - window + 1) // block * block
        found.append((start, end, first, end if causal else num_keys))
    return tuple(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def blocked(q_BKGTH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, masks_BTS: tuple, blocks: Spans) -> jax.Array:
    """Returns out_BKGTH of queries that are scaled already; masks_BTS has one mask (or None) for each block."""
    return _forward(q_BKGTH, k_BKSH, v_BKSH, masks_BTS, blocks)[0]


def _forward(q_BKGTH, k_BKSH, v_BKSH, masks_BTS, blocks: Spans):
    outputs, kept = [], []
    for (start, end, first, last), mask_BTS in zip(blocks, masks_BTS, strict=True):
        q, k, v = q_BKGTH[:, :, :, start:end], k_BKSH[:, :, first:last], v_BKSH[:, :, first:last]
        logits = jnp.einsum("BKGTH,BKSH->BKGTS", q, k, preferred_element_type=jnp.float32)
        if mask_BTS is not None:
            logits = jnp.where(mask_BTS[:, None, None], logits, MASKED)
        weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        inverse = 1.0 / jnp.sum(weights, axis=-1, keepdims=True)  # at least one weight is exp(0)
        weights = weights.astype(v.dtype)
        out = jnp.einsum("BKGTS,BKSH->BKGTH", weights, v, preferred_element_type=jnp.float32)
        outputs.append((out * inverse).astype(v.dtype))
        kept.append((weights, inverse))
    out_BKGTH = _join(outputs, axis=3)
    return out_BKGTH, (q_BKGTH, k_BKSH, v_BKSH, out_BKGTH, kept)


def _backward(blocks: Spans, saved, g_BKGTH):
    """With e the unnormalised weights, r the inverse of their sum and u = r g: dv = e' u; d logits = e (u v' - sum(u out)); dq, dk
    follow."""
    q_BKGTH, k_BKSH, v_BKSH, out_BKGTH, kept = saved
    borders = sorted({border for *_, first, last in blocks for border in (first, last)} | {0, k_BKSH.shape[2]})
    dq, dk, dv = [], {}, {}
    for (start, end, first, last), (weights, inverse) in zip(blocks, kept, strict=True):
        q, k, v = q_BKGTH[:, :, :, start:end], k_BKSH[:, :, first:last], v_BKSH[:, :, first:last]
        u = g_BKGTH[:, :, :, start:end].astype(jnp.float32) * inverse
        along_out = jnp.sum(u * out_BKGTH[:, :, :, start:end].astype(jnp.float32), axis=-1, keepdims=True)
        u = u.astype(v.dtype)
        dweights = jnp.einsum("BKGTH,BKSH->BKGTS", u, v, preferred_element_type=jnp.float32)
        dlogits = (weights.astype(jnp.float32) * (dweights - along_out)).astype(q.dtype)
        dq.append(jnp.einsum("BKGTS,BKSH->BKGTH", dlogits, k))
        _add_pieces(dk, jnp.einsum("BKGTS,BKGTH->BKSH", dlogits, q), first, last, borders)
        _add_pieces(dv, jnp.einsum("BKGTS,BKGTH->BKSH", weights, u), first, last, borders)
    dk, dv = (_join([total[a] for a in borders[:-1]], axis=2) for total in (dk, dv))
    return _join(dq, axis=3), dk, dv, None


def _add_pieces(total: dict, new_BKSH: jax.Array, first: int, last: int, borders: list[int]) -> None:
    """Adds to the running sum of each piece of the keys: no block is padded to the full length first."""
    for a, b in zip(borders[:-1], borders[1:], strict=True):
        if first <= a and b <= last:
            piece = new_BKSH[:, :, a - first : b - first]
            total[a] = total[a] + piece if a in total else piece


def _join(parts: list[jax.Array], axis: int) -> jax.Array:
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)


blocked.defvjp(_forward, _backward)
