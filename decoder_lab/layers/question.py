"""What a context's words have to do with a question: exact matches, and attention in both directions. Axis Q: tokens of the question."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.ops import masks


def features_of(tokens_BS: jax.Array, types_BS: jax.Array, question_BQ: jax.Array) -> jax.Array:
    """Returns float32 features [B, S, 2]: the token is of the context; it is of the context and the question has it too (Chen et al. 2017).

    question_BQ: 1 at the tokens of the question, which begin the row.
    """
    of_context_BS = types_BS == 1
    same_BSQ = tokens_BS[:, :, None] == tokens_BS[:, None, : question_BQ.shape[1]]
    asked_BS = jnp.any(same_BSQ & (question_BQ != 0)[:, None], axis=2)
    return jnp.stack([of_context_BS, of_context_BS & asked_BS], axis=-1).astype(jnp.float32)


class Highway(nn.Module):
    """`num_layers` of t * relu(W x + b) + (1 - t) * x with t = sigmoid(W' x + b') (Srivastava et al. 2015), which begins as mostly x."""

    num_layers: int = 2
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        width = x_BSD.shape[-1]
        for i in range(self.num_layers):
            value_BSD = nn.relu(Linear(width, True, width**-0.5, self.dtype, name=f"value_{i}")(x_BSD))
            gate_BSD = nn.sigmoid(Linear(width, True, width**-0.5, self.dtype, name=f"gate_{i}")(x_BSD) - jnp.asarray(1, self.dtype))
            x_BSD = gate_BSD * value_BSD + (jnp.asarray(1, self.dtype) - gate_BSD) * x_BSD
        return x_BSD


class AttentionFlow(nn.Module):
    """h_BSD of the context, u_BQD of the question -> g_BS(4D) = [h; u~; h * u~; h * h~] (Seo et al. 2017, equations 1 to 4).

    u~ is the question as each context token sees it, h~ the context as its tokens that the question asks for most. The similarity
    w . [h; u; h * u] is worked out as w1 . h + w2 . u + (w3 * h) . u: memory is O(B S Q), not O(B S Q D).

    The float32 weights of both are sown as "to_question" [B, 1, S, Q] and "to_context" [B, 1, 1, S] where the collection "attention" is
    mutable.
    """

    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, h_BSD: jax.Array, u_BQD: jax.Array, context_BS: jax.Array, question_BQ: jax.Array) -> jax.Array:
        """context_BS, question_BQ: bool, True at real tokens; a row without one or the other gives zeros there, finite gradients."""
        width = h_BSD.shape[-1]
        weights_3D = self.param("similarity", normal(width**-0.5), (3, width), jnp.float32).astype(self.dtype)
        of_h_BS = jnp.einsum("BSD,D->BS", h_BSD, weights_3D[0], preferred_element_type=jnp.float32)
        of_u_BQ = jnp.einsum("BQD,D->BQ", u_BQD, weights_3D[1], preferred_element_type=jnp.float32)
        both_BSQ = jnp.einsum("BSD,BQD->BSQ", h_BSD * weights_3D[2][None, None], u_BQD, preferred_element_type=jnp.float32)
        similarity_BSQ = both_BSQ + of_h_BS[:, :, None] + of_u_BQ[:, None]
        to_question_BSQ = masks.softmax(similarity_BSQ, question_BQ[:, None])
        asked_BSD = jnp.einsum("BSQ,BQD->BSD", to_question_BSQ.astype(self.dtype), u_BQD)
        most_BS = jnp.max(jnp.where(question_BQ[:, None], similarity_BSQ, masks.MASKED), axis=2)
        to_context_BS = masks.softmax(most_BS, context_BS)
        asked_for_BD = jnp.einsum("BS,BSD->BD", to_context_BS.astype(self.dtype), h_BSD)
        if self.is_mutable_collection("attention") and not self.is_initializing():
            self.sow("attention", "to_question", to_question_BSQ[:, None])
            self.sow("attention", "to_context", to_context_BS[:, None, None])
        return jnp.concatenate([h_BSD, asked_BSD, h_BSD * asked_BSD, h_BSD * asked_for_BD[:, None]], axis=-1)
