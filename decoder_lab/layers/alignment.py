"""Attention with a learned score over keys that are projected once: the attention of recurrent decoders, of one head or of several."""

import functools
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.attention import sow_weights
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.weights import Weights
from decoder_lab.ops import alignment as ops
from decoder_lab.ops import masks

Kind = Literal["additive", "dot", "general", "concat", "scaled_dot"]
PROJECTED = ("additive", "concat", "scaled_dot")  # queries and keys both go through kernels of their own


class Alignment(nn.Module):
    """Queries read values where their keys match (`ops.alignment`); `prepare`, `prepare_values` once a source, then call for any queries.

    Attributes:
      kind: additive (Bahdanau et al. 2014, with a bias), dot, general, concat (Luong et al. 2015), scaled_dot (Vaswani et al. 2017).
      num_units: what queries and keys are projected to; for "general" the width of the queries; "dot" has no parameters.
      window: None, or D of local attention: only keys within D of the centre (Luong et al. 2015, section 3.2).
      predict_centre: the centre is predicted (local-p, with a Gaussian) instead of the query's own position (local-m).
      num_heads: N, each with an N-th of what queries and keys are projected to, and a centre of its own (Vaswani et al. 2017, section
        3.2.2). Several heads also project the values, to `num_units`; multi-head attention's last map is whatever reads the context.
    """

    kind: Kind
    num_units: int
    window: int | None = None
    predict_centre: bool = False
    dtype: jnp.dtype = jnp.float32
    num_heads: int = 1

    def setup(self):
        if self.kind in PROJECTED:
            self.query = Weights(self.num_units, use_bias=False)
        if self.kind != "dot":
            self.key = Weights(self.num_units, use_bias=self.kind == "additive")
        if self.num_heads > 1:
            self.value = Weights(self.num_units, use_bias=False)
        if self.kind in ("additive", "concat"):
            self.vector = self.param("vector", normal(self.num_units**-0.5), (self.num_units,), jnp.float32)
        if self._predicts:
            self.centre = Weights(self.num_units, use_bias=False)
            self.centre_vector = self.param("centre_vector", normal(self.num_units**-0.5), (self.num_units,), jnp.float32)

    @property
    def _predicts(self) -> bool:
        return self.window is not None and self.predict_centre

    def prepare(self, keys_BSD: jax.Array) -> jax.Array:
        """Returns the keys as every call reads them: keys_BSA, projected where the score projects them."""
        keys_BSD = keys_BSD.astype(self.dtype)
        if self.kind == "dot":
            return keys_BSD
        weights = self.key(keys_BSD.shape[-1])
        prepared_BSA = jnp.dot(keys_BSD, weights["kernel"].astype(self.dtype))
        return prepared_BSA + weights["bias"].astype(self.dtype)[None, None] if "bias" in weights else prepared_BSA

    def prepare_values(self, values_BSD: jax.Array) -> jax.Array:
        """Returns the values as every call reads them: as they are, or with several heads projected to [B, S, num_units]."""
        values_BSD = values_BSD.astype(self.dtype)
        if self.num_heads == 1:  # a kernel would be one with that by which the context is read
            return values_BSD
        return jnp.dot(values_BSD, self.value(values_BSD.shape[-1])["kernel"].astype(self.dtype))

    def kernels(self, query_dim: int) -> dict[str, jax.Array]:
        """Returns the kernels that queries of this width go through, for `attend` inside a scan."""
        found = {"query": self.query(query_dim)["kernel"]} if self.kind in PROJECTED else {}
        return {**found, "centre": self.centre(query_dim)["kernel"]} if self._predicts else found

    def vectors(self) -> dict[str, jax.Array]:
        """Returns the vectors of the scores, for `attend`."""
        found = {"query": self.vector} if self.kind in ("additive", "concat") else {}
        return {**found, "centre": self.centre_vector} if self._predicts else found

    def __call__(
        self,
        query_BTD: jax.Array,
        prepared_BSA: jax.Array,
        values_BSD: jax.Array,
        mask_BTS: jax.Array,
        *,
        q_positions_BT: jax.Array | None = None,
        k_positions_BS: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (context_BTD in `dtype`, float32 weights_BNTS); a query that may see nothing gets zeros. A window needs positions."""
        kernels = self.kernels(query_BTD.shape[-1])

        def project(name, x_BTD):
            return jnp.dot(x_BTD.astype(self.dtype), kernels[name].astype(self.dtype), preferred_element_type=jnp.float32)

        attend = attend_fn(self.kind, self.window, self.predict_centre, self.dtype, self.num_heads)
        context_BTD, weights_BNTS = attend(
            project, self.vectors(), query_BTD, prepared_BSA, values_BSD, mask_BTS, q_positions_BT, k_positions_BS
        )
        self.record(weights_BNTS)
        return context_BTD, weights_BNTS

    def record(self, weights_BNTS: jax.Array) -> None:
        """Sows the weights where somebody asked for them."""
        sow_weights(self, lambda: weights_BNTS)


def attend_fn(
    kind: Kind, window: int | None, predict_centre: bool, dtype, num_heads: int = 1
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns the pure function of an `Alignment`, for use inside a scan.

    It is (project, vectors, query_BTD, prepared_BSA, values_BSD, mask_BTS, q_positions_BT, k_positions_BS) -> (context_BTD, weights_BNTS),
    where `project(name, x_BTD)` multiplies with the kernel of that name.
    """
    local_p = window is not None and predict_centre

    def attend(project, vectors, query_BTD, prepared_BSA, values_BSD, mask_BTS, q_positions_BT=None, k_positions_BS=None):
        query_BTA = (project("query", query_BTD) if kind in PROJECTED else query_BTD).astype(dtype)
        if query_BTA.shape[-1] != prepared_BSA.shape[-1]:
            raise ValueError(
                f'attention "{kind}" needs queries as wide as keys, got {query_BTA.shape[-1]} and {prepared_BSA.shape[-1]}: '
                'change the width of the encoder or the decoder, or use "general"'
            )
        hidden_BTA = jnp.tanh(project("centre", query_BTD)) if local_p else None
        one_head = functools.partial(_one_head, kind, window, dtype, mask_BTS, q_positions_BT, k_positions_BS)
        parts = vectors, query_BTA, prepared_BSA, values_BSD, hidden_BTA
        if num_heads == 1:
            context_BTD, weights_BTS = one_head(*parts)
            return context_BTD, weights_BTS[:, None]
        by_head = jax.tree.map(lambda x: x.reshape(*x.shape[:-1], num_heads, -1), parts)
        context_BTNH, weights_BNTS = jax.vmap(one_head, in_axes=-2, out_axes=(2, 1))(*by_head)
        return context_BTNH.reshape(*context_BTNH.shape[:2], -1), weights_BNTS

    return attend


def _one_head(
    kind: Kind, window, dtype, mask_BTS, q_positions_BT, k_positions_BS, vectors, query_BTA, prepared_BSA, values_BSD, hidden_BTA
) -> tuple[jax.Array, jax.Array]:
    """Returns (context_BTD, float32 weights_BTS) of projected queries and keys; hidden_BTA: what a centre is predicted from, or None."""
    if kind in ("additive", "concat"):
        logits_BTS = ops.additive(query_BTA, prepared_BSA, vectors["query"])
    else:
        logits_BTS = (ops.scaled_dot if kind == "scaled_dot" else ops.dot)(query_BTA, prepared_BSA)
    factor_BTS = None
    if window is not None:
        centre_BT = q_positions_BT
        if hidden_BTA is not None:
            logits_BT = jnp.einsum("BTA,A->BT", hidden_BTA, vectors["centre"])
            centre_BT = ops.predicted_centre(logits_BT, jnp.sum(mask_BTS, axis=-1))
            factor_BTS = ops.gaussian(centre_BT, k_positions_BS, window)
        mask_BTS = mask_BTS & ops.local_window(centre_BT, k_positions_BS, window)
    weights_BTS = masks.softmax(logits_BTS, mask_BTS)
    if factor_BTS is not None:
        weights_BTS = weights_BTS * factor_BTS
    return jnp.einsum("BTS,BSD->BTD", weights_BTS.astype(dtype), values_BSD.astype(dtype)), weights_BTS
