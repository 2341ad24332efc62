"""Attention of one head with a learned score over keys that are projected once: the attention of recurrent decoders."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.initialization import normal
from decoder_lab.layers.weights import Weights
from decoder_lab.ops import alignment as ops
from decoder_lab.ops import masks

Kind = Literal["additive", "dot", "general", "concat", "scaled_dot"]
PROJECTED = ("additive", "concat", "scaled_dot")  # queries and keys both go through kernels of their own


class Alignment(nn.Module):
    """Queries read values where their keys match (`ops.alignment`); `prepare` once a source, then call for any number of queries.

    Attributes:
      kind: additive (Bahdanau et al. 2014, with a bias), dot, general, concat (Luong et al. 2015), scaled_dot (Vaswani et al. 2017).
      num_units: what queries and keys are projected to; for "general" the width of the queries; "dot" has no parameters.
      window: None, or D of local attention: only keys within D of the centre (Luong et al. 2015, section 3.2).
      predict_centre: the centre is predicted (local-p, with a Gaussian) instead of the query's own position (local-m).
    """

    kind: Kind
    num_units: int
    window: int | None = None
    predict_centre: bool = False
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.kind in PROJECTED:
            self.query = Weights(self.num_units, use_bias=False)
        if self.kind != "dot":
            self.key = Weights(self.num_units, use_bias=self.kind == "additive")
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
        """Returns (context_BTD in `dtype`, float32 weights_BTS); a query that may see nothing gets zeros. A window needs positions."""
        kernels = self.kernels(query_BTD.shape[-1])

        def project(name, x_BTD):
            return jnp.dot(x_BTD.astype(self.dtype), kernels[name].astype(self.dtype), preferred_element_type=jnp.float32)

        attend = attend_fn(self.kind, self.window, self.predict_centre, self.dtype)
        context_BTD, weights_BTS = attend(
            project, self.vectors(), query_BTD, prepared_BSA, values_BSD, mask_BTS, q_positions_BT, k_positions_BS
        )
        self.record(weights_BTS)
        return context_BTD, weights_BTS

    def record(self, weights_BTS: jax.Array) -> None:
        """Sows weights [B, 1, T, S] where somebody asked for them."""
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "weights", weights_BTS[:, None])


def attend_fn(kind: Kind, window: int | None, predict_centre: bool, dtype) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns the pure function of an `Alignment`, for use inside a scan.

    It is (project, vectors, query_BTD, prepared_BSA, values_BSD, mask_BTS, q_positions_BT, k_positions_BS) -> (context_BTD, weights_BTS),
    where `project(name, x_BTD)` multiplies with the kernel of that name.
    """

    def attend(project, vectors, query_BTD, prepared_BSA, values_BSD, mask_BTS, q_positions_BT=None, k_positions_BS=None):
        query_BTA = (project("query", query_BTD) if kind in PROJECTED else query_BTD).astype(dtype)
        if query_BTA.shape[-1] != prepared_BSA.shape[-1]:
            raise ValueError(
                f'attention "{kind}" needs queries as wide as keys, got {query_BTA.shape[-1]} and {prepared_BSA.shape[-1]}: '
                'change the width of the encoder or the decoder, or use "general"'
            )
        if kind in ("additive", "concat"):
            logits_BTS = ops.additive(query_BTA, prepared_BSA, vectors["query"])
        else:
            logits_BTS = (ops.scaled_dot if kind == "scaled_dot" else ops.dot)(query_BTA, prepared_BSA)
        factor_BTS = None
        if window is not None:
            centre_BT = q_positions_BT
            if predict_centre:
                hidden_BTA = jnp.tanh(project("centre", query_BTD))
                logits_BT = jnp.einsum("BTA,A->BT", hidden_BTA, vectors["centre"])
                centre_BT = ops.predicted_centre(logits_BT, jnp.sum(mask_BTS, axis=-1))
                factor_BTS = ops.gaussian(centre_BT, k_positions_BS, window)
            mask_BTS = mask_BTS & ops.local_window(centre_BT, k_positions_BS, window)
        weights_BTS = masks.softmax(logits_BTS, mask_BTS)
        if factor_BTS is not None:
            weights_BTS = weights_BTS * factor_BTS
        return jnp.einsum("BTS,BSD->BTD", weights_BTS.astype(dtype), values_BSD.astype(dtype)), weights_BTS

    return attend
