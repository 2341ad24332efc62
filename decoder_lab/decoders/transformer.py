"""A Transformer decoder whose known variants (GPT-2, Llama, and with a memory to read Vaswani's, BART, T5) are combinations of its fields.

Without a memory it is a language model and has no parameters of cross-attention.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core.errors import UserError
from decoder_lab.layers import transformer_parts as parts
from decoder_lab.layers.attention import Context
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.ops import masks

# decoders of models with both sides, whose sizes `models/encoder_decoder.py` gives
VARIANTS = {
    # Vaswani et al. 2017, table 3
    "transformer_base": dict(
        num_layers=6, num_heads=8, width=512, mlp_dim=2048, norm_position="post", position="sinusoidal", mlp="relu",
        scale_embeddings=True, embedding_stddev=0.0442, qkv_bias=False, out_bias=False, dropout=0.1,
    ),
    "transformer_big": dict(
        num_layers=6, num_heads=16, width=1024, mlp_dim=4096, norm_position="post", position="sinusoidal", mlp="relu",
        scale_embeddings=True, embedding_stddev=0.03125, qkv_bias=False, out_bias=False, dropout=0.3,
    ),
    # the Transformer of a widely read tutorial on Multi30k, and the small one of Wu et al. 2021 for it
    "tutorial": dict(
        num_layers=3, num_heads=8, width=256, mlp_dim=512, norm_position="post", mlp="relu", scale_embeddings=True, dropout=0.1,
        attention_dropout=0.1, tie_embeddings=False, logits_bias=True,
    ),
    "multi30k_tiny": dict(
        num_layers=4, num_heads=4, width=128, mlp_dim=256, norm_position="post", position="sinusoidal", mlp="relu",
        scale_embeddings=True, embedding_stddev=0.0884, dropout=0.3,
    ),
    # T5 (Raffel et al. 2020), and version 1.1
    "t5-small": dict(
        num_layers=6, num_heads=8, head_dim=64, width=512, mlp_dim=2048, norm="rms", norm_epsilon=1e-6, position="t5", mlp="relu",
        use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, logits_scale=0.04419417382415922,
    ),
    "t5-base": dict(
        num_layers=12, num_heads=12, head_dim=64, width=768, mlp_dim=3072, norm="rms", norm_epsilon=1e-6, position="t5", mlp="relu",
        use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, logits_scale=0.036084391824351615,
    ),
    "t5-large": dict(
        num_layers=24, num_heads=16, head_dim=64, width=1024, mlp_dim=4096, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="relu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, scan_layers=True, logits_scale=0.03125,
    ),
    "t5-3b": dict(
        num_layers=24, num_heads=32, head_dim=128, width=1024, mlp_dim=16384, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="relu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, scan_layers=True, logits_scale=0.03125,
    ),
    "t5-11b": dict(
        num_layers=24, num_heads=128, head_dim=128, width=1024, mlp_dim=65536, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="relu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, scan_layers=True, logits_scale=0.03125,
    ),
    "t5-v1.1-small": dict(
        num_layers=8, num_heads=6, head_dim=64, width=512, mlp_dim=1024, norm="rms", norm_epsilon=1e-6, position="t5", mlp="geglu",
        use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, tie_embeddings=False,
    ),
    "t5-v1.1-base": dict(
        num_layers=12, num_heads=12, head_dim=64, width=768, mlp_dim=2048, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="geglu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, tie_embeddings=False,
    ),
    # BART (Lewis et al. 2020) and Marian (opus-mt)
    "bart-base": dict(
        num_layers=6, num_heads=12, width=768, mlp_dim=3072, norm_position="post", embedding_norm=True, mlp="gelu_exact",
        dropout=0.1,
    ),
    "bart-large": dict(
        num_layers=12, num_heads=16, width=1024, mlp_dim=4096, norm_position="post", embedding_norm=True, mlp="gelu_exact",
        dropout=0.1,
    ),
    "marian": dict(
        num_layers=6, num_heads=8, width=512, mlp_dim=2048, norm_position="post", position="sinusoidal_paper", mlp="silu",
        scale_embeddings=True, embedding_stddev=0.0442, dropout=0.1, logits_bias=True,
    ),
}  # fmt: skip


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    from decoder_lab.layers import transformer_problems  # needs no JAX

    return transformer_problems.of_decoder(kw)


class Decoder(nn.Module):
    """tokens_BT (and a memory) -> logits_BTV, causal. `variant` names a preset; every other field then overrides it."""

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
    reads_memory = True  # not a field: a decoder-only model says no
    variant: str = ""
    num_layers: int = 4
    num_heads: int = 4
    num_kv_heads: int | None = None  # None: num_heads; 1 is multi-query attention
    head_dim: int | None = None  # None: width / num_heads
    width: int = 128
    mlp_dim: int | None = None  # None: 4 * width, or 8/3 of it in a gated MLP (as many parameters), rounded up to a multiple of 32
    norm: Literal["layer", "rms", "rms_plus_one"] = "layer"  # rms_plus_one: times 1 + scale (Gemma)
    norm_position: Literal["pre", "post", "sandwich"] = "pre"
    norm_epsilon: float = 1e-5
    position: Literal["learned", "sinusoidal", "sinusoidal_paper", "rotary", "alibi", "t5", "none"] = "learned"
    num_positions: int | None = None  # of a learned table; None: as many as max_length
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None  # {"type": "linear" | "ntk" | "yarn" | "llama3", "factor": ...}, see ops/rotary.py
    window: int | None = None  # each token sees itself and window - 1 before it
    global_layers: tuple[int, ...] = ()  # numbers of layers that see everything all the same (Gemma 2 and 3)
    local_rope_theta: float | None = None  # of the layers with a window, without rope_scaling (Gemma 3); None: as all others
    qk_norm: bool = False
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    mlp: Literal["gelu", "gelu_exact", "relu", "squared_relu", "silu", "swiglu", "geglu"] = "gelu"
    num_experts: int = 0  # MLPs a layer, of which a router chooses (layers/mixture_of_experts.py); 0: one, and no router
    experts_per_token: int = 2
    expert_capacity: float | None = None  # places of an expert while training, times an even share; None: none is ever full
    expert_balance: float = 0.01  # weight of the loss that keeps experts evenly used
    expert_z: float = 0.001  # weight of the loss that keeps the router's logits small
    tie_embeddings: bool = True
    scale_embeddings: bool = False  # multiply token embeddings by sqrt(width) (Vaswani et al. 2017, Gemma)
    use_bias: bool = True  # of linear layers and layer norms
    qkv_bias: bool | None = None  # None: use_bias
    dropout: float = 0.0  # after the embeddings, attention and MLP
    attention_dropout: float = 0.0  # of attention weights; excludes the fused kernels
    parallel_residual: bool = False
    scan_layers: bool = False
    remat: Literal["none", "full", "dots", "dots_no_batch"] = "none"
    attention: Literal["auto", "reference", "blocked", "xla", "cudnn", "splash"] = "auto"
    init_stddev: float = 0.02
    embedding_stddev: float | None = None  # None: init_stddev
    embedding_norm: bool = False  # a norm after the embeddings (BERT, BART)
    score: Literal["scaled_dot", "dot", "general", "additive", "concat"] = "scaled_dot"  # of queries and keys, see ops/alignment.py
    attention_scale: float | None = None  # of the dot products; None: head_dim ** -0.5; T5 has 1.0
    out_bias: bool | None = None  # of attention's last map; None: use_bias
    logits_scale: float | None = None  # multiplies the last hidden states; T5 with tied embeddings has width ** -0.5
    logits_bias: bool = False
    cross_window: int | None = None  # local attention to a memory: within this many of the token's own position (Luong et al. 2015)
    cross_predict_centre: bool = False  # of a position that each head predicts instead, with a Gaussian (local-p)

    def setup(self):
        if self.cross_window is not None and not self.reads_memory:
            raise UserError("cross_window limits what is read of a memory; a decoder-only model reads none: use window, or leave it out.")
        stddev, dtype = self.init_stddev, self.dtype
        self.decoder = parts.make_stack(self, causal=True, cross_attention=True)
        self.token_embedding = parts.make_embedding(self, self.vocab_size)
        if self.position == "learned":
            self.position_embedding = Embedding(self.num_positions or self.max_length, self.width, stddev, dtype)
        if self.position == "t5":
            self.position_bias = self.param("position_bias", normal(stddev), (parts.NUM_BUCKETS, self.num_heads), jnp.float32)
        if self.embedding_norm:
            self._embedding_norm = parts.make_norm(self)(name="embedding_norm")
        self.embedding_dropout = Dropout(self.dropout)
        if self.norm_position != "post":
            self.final_norm = parts.make_norm(self)()
        if not self.tie_embeddings:
            self.unembedding = Linear(self.vocab_size, False, stddev, dtype, jnp.float32)
        if self.logits_bias:
            self._logits_bias_V = self.param("logits_bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        prefix_BT: jax.Array | None = None,
        cache: dict | None = None,
        memory: Memory | None = None,
        embedding: Embedding | None = None,
        deterministic: bool = True,
        return_hidden: bool = False,
    ):
        """Returns (logits_BTV float32, or hidden_BTD in the compute dtype for `unembed`; cache).

        positions default to 0, 1, ... in every document (going on from what a cache holds), segments to one document a row. With a cache
        the T entries are written at its index and see what was written before. prefix_BT: entries that see each other in both directions;
        with a cache, those of its first call only. memory: what cross-attention reads, see `prepare`. embedding: a table to use instead of
        an own one. dropout needs the key stream "dropout" when not deterministic.
        """
        if memory is not None and not self.reads_memory:
            raise ValueError("a decoder-only model has no cross-attention: memory must be None")
        length = tokens_BT.shape[1]
        if self.position == "learned" and cache is None and positions_BT is None and length > (self.num_positions or self.max_length):
            raise ValueError(f"{length} tokens exceed the {self.num_positions or self.max_length} learned positions")
        if cache is not None and segments_BT is None:
            segments_BT = jnp.ones(tokens_BT.shape, jnp.int32)
        if positions_BT is None:
            positions_BT = _positions(segments_BT, length, cache)
        if segments_BT is not None:
            # whatever stands in padding, a wild index included, must not become a NaN that masks cannot stop
            tokens_BT, positions_BT = (jnp.where(segments_BT == 0, 0, x) for x in (tokens_BT, positions_BT))
        if memory is not None and memory.prepared is None:
            memory = memory.without_padding()
        context, cache = self._context(positions_BT, segments_BT, cache)
        context = context.replace(prefix_BT=prefix_BT, memory=memory, deterministic=deterministic)

        position_table = self.position_embedding if self.position == "learned" else None
        x_BTD = parts.embed(self, embedding or self.token_embedding, position_table, tokens_BT, positions_BT)
        if self.embedding_norm:
            x_BTD = self._embedding_norm(x_BTD)
        x_BTD = self.embedding_dropout(x_BTD, deterministic)
        x_BTD, layers = self.decoder(x_BTD, context, None if cache is None else cache["layers"])
        if cache is not None:
            cache = {**cache, "layers": layers, "index": cache["index"] + length}
        if self.norm_position != "post":
            x_BTD = self.final_norm(x_BTD)
        return (x_BTD if return_hidden else self.unembed(x_BTD, embedding)), cache

    def _context(self, positions_BT, segments_BT, cache) -> tuple[Context, dict | None]:
        """Returns what the layers share, and the cache with this call's segments and positions written."""
        k_positions_BS, k_segments_BS, index = positions_BT, segments_BT, None
        if cache is not None:
            index = cache["index"]
            k_segments_BS = _written(cache["segments"], segments_BT, index)
            k_positions_BS = _written(cache["positions"], jnp.broadcast_to(positions_BT, segments_BT.shape), index)
            cache = {**cache, "segments": k_segments_BS, "positions": k_positions_BS}
        table_CN = self.position_bias if self.position == "t5" else None
        relative = parts.relative_positions(self, positions_BT, table_CN, bidirectional=False)
        return Context(positions_BT, k_positions_BS, segments_BT, k_segments_BS, **relative, index=index), cache

    def prepare(self, memory: Memory) -> Memory:
        """Returns the memory with the keys and values of every layer's cross-attention, which decoding then reads at every step.

        A memory that is not prepared works as well: each call then works them out for itself, layer by layer, as training does.
        """
        return memory.replace(prepared=self.decoder.prepare(memory.without_padding().values_BSD))

    def unembed(self, hidden_BTD: jax.Array, embedding: Embedding | None = None) -> jax.Array:
        """Returns float32 logits_BTV of the hidden states that `return_hidden` gives."""
        if self.logits_scale is not None:
            hidden_BTD = hidden_BTD * self.logits_scale
        if self.tie_embeddings:
            logits_BTV = (embedding or self.token_embedding).attend(hidden_BTD)
        else:
            logits_BTV = self.unembedding(hidden_BTD)
        if self.logits_bias:
            logits_BTV += self._logits_bias_V[None, None]
        if self.logits_softcap is not None:
            logits_BTV = self.logits_softcap * jnp.tanh(logits_BTV / self.logits_softcap)
        return logits_BTV

    def init_cache(self, batch_size: int, max_length: int) -> dict:
        """Returns an empty cache for `max_length` entries a row; needs no parameters."""
        if self.position == "learned" and max_length > (most := self.num_positions or self.max_length):
            raise UserError(f"a context of {max_length} tokens exceeds the {most} learned positions of this model.")
        heads = self.num_kv_heads or self.num_heads

        def layer(*layers: int) -> dict:
            shape = (batch_size, *layers, heads, max_length, parts.head_dim(self))
            return {"key": jnp.zeros(shape, self.dtype), "value": jnp.zeros(shape, self.dtype)}

        return {
            "index": jnp.zeros((), jnp.int32),  # how many entries are written
            "segments": jnp.zeros((batch_size, max_length), jnp.int32),
            "positions": jnp.zeros((batch_size, max_length), jnp.int32),
            "layers": layer(self.num_layers) if self.scan_layers else tuple(layer() for _ in range(self.num_layers)),
        }


def _positions(segments_BT: jax.Array | None, length: int, cache: dict | None) -> jax.Array:
    """Returns the position of every entry in its document."""
    if segments_BT is None:
        return jnp.arange(length, dtype=jnp.int32)[None]
    if cache is None:
        return masks.positions_in_segments(segments_BT)
    everything_BS = masks.positions_in_segments(_written(cache["segments"], segments_BT, cache["index"]))
    return jax.lax.dynamic_slice_in_dim(everything_BS, cache["index"], length, axis=1)


def _written(old_BS: jax.Array, new_BT: jax.Array, index: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_slice(old_BS, new_BT.astype(jnp.int32), (jnp.zeros_like(index), index))
