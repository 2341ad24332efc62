"""How well each query matches each key: the scores of classical attention, and local windows.

Every score takes queries and keys and returns float32 logits: q_BTH, k_BSH -> logits_BTS, or by heads q_BTNH, k_BSNH -> logits_BNTS (as
many heads in the keys as in the queries; parameters then carry the axis N first). Keys that many queries meet are projected once by the
caller. `concat` and `general` with their own kernels are the papers' forms; projected beforehand they are `additive` and `dot`.

| score | equation | source |
|---|---|---|
| `additive` | v . tanh(q + k), with q = W s and k = U h + b | Bahdanau et al. 2014, section A.1.2 |
| `dot` | q . k | Luong et al. 2015, equation 8 |
| `general` | q . W k | Luong et al. 2015, equation 8 |
| `concat` | v . tanh(W [q; k]) | Luong et al. 2015, equation 8 |
| `scaled_dot` | q . k / sqrt(H) | Vaswani et al. 2017, equation 1 |
"""

import jax
import jax.numpy as jnp


def additive(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Returns v . tanh(q + k) of projected queries q_BTA (q_BTNA), keys k_BSA (k_BSNA) and v_A (v_NA); it holds B T S A values."""
    matched = jnp.tanh(q[:, :, None] + k[:, None])
    equation = "BTSA,A->BTS" if q.ndim == 3 else "BTSNA,NA->BNTS"
    return jnp.einsum(equation, matched, v.astype(matched.dtype), preferred_element_type=jnp.float32)


def dot(q: jax.Array, k: jax.Array) -> jax.Array:
    """Returns q . k of q_BTH (q_BTNH) and k_BSH (k_BSNH)."""
    equation = "BTH,BSH->BTS" if q.ndim == 3 else "BTNH,BSNH->BNTS"
    return jnp.einsum(equation, q, k, preferred_element_type=jnp.float32)


def general(q: jax.Array, k: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns q . W k of q_BTH (q_BTNH), k_BSJ (k_BSNJ) and W transposed, kernel_JH (kernel_NJH)."""
    equation = "BSJ,JH->BSH" if q.ndim == 3 else "BSNJ,NJH->BSNH"
    return dot(q, jnp.einsum(equation, k, kernel.astype(k.dtype)))


def concat(q: jax.Array, k: jax.Array, kernel: jax.Array, v: jax.Array) -> jax.Array:
    """Returns v . tanh(W [q; k]) of q_BTH (q_BTNH), k_BSJ (k_BSNJ), kernel [H + J, A] ([N, H + J, A]) and v_A (v_NA)."""
    width = q.shape[-1]
    equation = "BTH,HA->BTA" if q.ndim == 3 else "BTNH,NHA->BTNA"
    q_kernel, k_kernel = kernel[..., :width, :].astype(q.dtype), kernel[..., width:, :].astype(k.dtype)
    return additive(jnp.einsum(equation, q, q_kernel), jnp.einsum(equation, k, k_kernel), v)


def scaled_dot(q: jax.Array, k: jax.Array) -> jax.Array:
    """Returns q . k / sqrt(H) of q_BTH (q_BTNH) and k_BSH (k_BSNH)."""
    return dot(q, k) * q.shape[-1] ** -0.5


def local_window(centre_BT: jax.Array, k_positions_BS: jax.Array, half_width: int) -> jax.Array:
    """Returns mask_BTS (mask_BNTS of centre_BNT) of the keys within `half_width` of the centre: D of Luong et al. 2015, section 3.2.

    local-m: the centre is the query's own position; local-p: it is `predicted_centre`, and the weights are multiplied by `gaussian`.
    """
    return jnp.abs(_distance(centre_BT, k_positions_BS)) <= half_width


def predicted_centre(logits_BT: jax.Array, lengths_BT: jax.Array) -> jax.Array:
    """Returns p = S sigmoid(logit), float32 (Luong et al. 2015, equation 9); S is the number of keys that the query may see.

    By heads of logits_BNT, with lengths_BT or lengths_B1T.
    """
    lengths = lengths_BT if lengths_BT.ndim == logits_BT.ndim else lengths_BT[:, None]
    return lengths.astype(jnp.float32) * jax.nn.sigmoid(logits_BT.astype(jnp.float32))


def gaussian(centre_BT: jax.Array, k_positions_BS: jax.Array, half_width: int) -> jax.Array:
    """Returns exp(-(s - p)^2 / (2 (D / 2)^2)), float32 BTS, or BNTS of centre_BNT (Luong et al. 2015, equation 10)."""
    return jnp.exp(-2.0 * jnp.square(_distance(centre_BT, k_positions_BS) / half_width))


def positions(segments_BS: jax.Array) -> jax.Array:
    """Returns int32 positions_BS: how many entries of its own document stand before each one, wherever padding (segment 0) lies."""
    order_S = jnp.arange(segments_BS.shape[1])
    before_BSS = (segments_BS[:, :, None] == segments_BS[:, None, :]) & (order_S[None, None, :] < order_S[None, :, None])
    return jnp.sum(before_BSS, axis=-1, dtype=jnp.int32)


def _distance(centre_BT, k_positions_BS):
    k_positions = jnp.expand_dims(k_positions_BS.astype(jnp.float32), tuple(range(1, centre_BT.ndim)))
    return k_positions - centre_BT.astype(jnp.float32)[..., None]
