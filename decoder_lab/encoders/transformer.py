"""A Transformer encoder: every position sees all of its document. BERT, Vaswani et al. 2017, T5 and BART by its fields."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers import transformer_parts as parts
from decoder_lab.layers.attention import Context
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.ops import masks

# parameters without a pooler, at vocabulary 30522 and length 512; a pooler has width * (width + 1) more
VARIANTS = {
    # BERT (Devlin et al. 2019) and its smaller sizes (Turc et al. 2019)
    "bert-tiny": dict(  # 4,369,408; with pooler 4,385,920
        num_layers=2, num_heads=2, width=128, norm_position="post", norm_epsilon=1e-12, embedding_norm=True, num_types=2, mlp="gelu_exact",
        dropout=0.1, attention_dropout=0.1,
    ),
    "bert-mini": dict(  # 11,104,768; with pooler 11,170,560
        num_layers=4, num_heads=4, width=256, norm_position="post", norm_epsilon=1e-12, embedding_norm=True, num_types=2, mlp="gelu_exact",
        dropout=0.1, attention_dropout=0.1,
    ),
    "bert-small": dict(  # 28,500,992; with pooler 28,763,648
        num_layers=4, num_heads=8, width=512, norm_position="post", norm_epsilon=1e-12, embedding_norm=True, num_types=2, mlp="gelu_exact",
        dropout=0.1, attention_dropout=0.1,
    ),
    "bert-medium": dict(  # 41,110,528; with pooler 41,373,184
        num_layers=8, num_heads=8, width=512, norm_position="post", norm_epsilon=1e-12, embedding_norm=True, num_types=2, mlp="gelu_exact",
        dropout=0.1, attention_dropout=0.1,
    ),
    "bert-base": dict(  # 108,891,648; with pooler 109,482,240
        num_layers=12, num_heads=12, width=768, norm_position="post", norm_epsilon=1e-12, embedding_norm=True, num_types=2,
        mlp="gelu_exact", dropout=0.1, attention_dropout=0.1,
    ),
    "bert-large": dict(  # 334,092,288; with pooler 335,141,888
        num_layers=24, num_heads=16, width=1024, norm_position="post", norm_epsilon=1e-12, embedding_norm=True, num_types=2,
        mlp="gelu_exact", dropout=0.1, attention_dropout=0.1,
    ),
    # all-MiniLM-L6 (Wang et al. 2020): 22,565,376; with pooler 22,713,216
    "minilm-l6": dict(
        num_layers=6, num_heads=12, width=384, norm_position="post", norm_epsilon=1e-12, embedding_norm=True, num_types=2,
        mlp="gelu_exact", dropout=0.1, attention_dropout=0.1,
    ),
    # encoders of models with both sides, whose sizes `models/encoder_decoder.py` gives
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
        attention_dropout=0.1,
    ),
    "multi30k_tiny": dict(
        num_layers=4, num_heads=4, width=128, mlp_dim=256, norm_position="post", position="sinusoidal", mlp="relu",
        scale_embeddings=True, embedding_stddev=0.0884, dropout=0.3,
    ),
    # T5 (Raffel et al. 2020), and version 1.1
    "t5-small": dict(
        num_layers=6, num_heads=8, head_dim=64, width=512, mlp_dim=2048, norm="rms", norm_epsilon=1e-6, position="t5", mlp="relu",
        use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1,
    ),
    "t5-base": dict(
        num_layers=12, num_heads=12, head_dim=64, width=768, mlp_dim=3072, norm="rms", norm_epsilon=1e-6, position="t5", mlp="relu",
        use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1,
    ),
    "t5-large": dict(
        num_layers=24, num_heads=16, head_dim=64, width=1024, mlp_dim=4096, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="relu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, scan_layers=True,
    ),
    "t5-3b": dict(
        num_layers=24, num_heads=32, head_dim=128, width=1024, mlp_dim=16384, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="relu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, scan_layers=True,
    ),
    "t5-11b": dict(
        num_layers=24, num_heads=128, head_dim=128, width=1024, mlp_dim=65536, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="relu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1, scan_layers=True,
    ),
    "t5-v1.1-small": dict(
        num_layers=8, num_heads=6, head_dim=64, width=512, mlp_dim=1024, norm="rms", norm_epsilon=1e-6, position="t5", mlp="geglu",
        use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1,
    ),
    "t5-v1.1-base": dict(
        num_layers=12, num_heads=12, head_dim=64, width=768, mlp_dim=2048, norm="rms", norm_epsilon=1e-6, position="t5",
        mlp="geglu", use_bias=False, attention_scale=1.0, embedding_stddev=1.0, dropout=0.1,
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
        scale_embeddings=True, embedding_stddev=0.0442, dropout=0.1,
    ),
}  # fmt: skip


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    from decoder_lab.layers import transformer_problems  # needs no JAX

    found = transformer_problems.problems(kw)
    if kw["num_types"] < 0:
        found.append(f"num_types must be 0 (no token types) or more, got {kw['num_types']}")
    return found


class Encoder(nn.Module):
    """tokens_BS -> Memory of values [B, S, width]. `variant` names a preset; every other field then overrides it."""

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
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
    embedding_norm: bool = False  # a norm after the embeddings (BERT, BART)
    num_types: int = 0  # of token types (BERT has 2); 0: there are none
    position: Literal["learned", "sinusoidal", "sinusoidal_paper", "rotary", "alibi", "t5", "none"] = "learned"
    num_positions: int | None = None  # of a learned table; None: as many as max_length
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None  # {"type": "linear" | "ntk" | "yarn" | "llama3", "factor": ...}, see ops/rotary.py
    window: int | None = None  # each token sees itself and window - 1 to either side
    qk_norm: bool = False
    score: Literal["scaled_dot", "dot", "general", "additive", "concat"] = "scaled_dot"  # of queries and keys, see ops/alignment.py
    attention_scale: float | None = None  # of the dot products; None: head_dim ** -0.5; T5 has 1.0
    attention_softcap: float | None = None
    mlp: Literal["gelu", "gelu_exact", "relu", "squared_relu", "silu", "swiglu", "geglu"] = "gelu"
    num_experts: int = 0  # MLPs a layer, of which a router chooses (layers/mixture_of_experts.py); 0: one, and no router
    experts_per_token: int = 2
    expert_capacity: float | None = None  # places of an expert while training, times an even share; None: none is ever full
    expert_balance: float = 0.01  # weight of the loss that keeps experts evenly used
    expert_z: float = 0.001  # weight of the loss that keeps the router's logits small
    scale_embeddings: bool = False  # multiply token embeddings by sqrt(width) (Vaswani et al. 2017)
    use_bias: bool = True  # of linear layers and layer norms
    qkv_bias: bool | None = None  # None: use_bias
    out_bias: bool | None = None  # of attention's last map; None: use_bias
    dropout: float = 0.0  # after the embeddings, attention and MLP
    attention_dropout: float = 0.0  # of attention weights; excludes the fused kernels
    parallel_residual: bool = False
    scan_layers: bool = False
    remat: Literal["none", "full", "dots", "dots_no_batch"] = "none"
    attention: Literal["auto", "reference", "blocked", "xla", "cudnn", "splash"] = "auto"
    init_stddev: float = 0.02
    embedding_stddev: float | None = None  # None: init_stddev

    def setup(self):
        self.stack = parts.make_stack(self, causal=False, cross_attention=False)
        self.token_embedding = parts.make_embedding(self, self.vocab_size)
        if self.position == "learned":
            self.position_embedding = Embedding(self.num_positions or self.max_length, self.width, self.init_stddev, self.dtype)
        if self.position == "t5":
            self.position_bias = self.param("position_bias", normal(self.init_stddev), (parts.NUM_BUCKETS, self.num_heads), jnp.float32)
        if self.num_types:
            self.type_embedding = Embedding(self.num_types, self.width, self.init_stddev, self.dtype)
        if self.embedding_norm:
            self._embedding_norm = parts.make_norm(self)(name="embedding_norm")
        self.extra = Linear(self.width, False, self.init_stddev, self.dtype)
        self.embedding_dropout = Dropout(self.dropout)
        if self.norm_position != "post":
            self.final_norm = parts.make_norm(self)()

    def __call__(
        self,
        tokens_BS: jax.Array,
        *,
        segments_BS: jax.Array | None = None,
        positions_BS: jax.Array | None = None,
        types_BS: jax.Array | None = None,
        extra_BSE: jax.Array | None = None,
        embedding: Embedding | None = None,
        deterministic: bool = True,
    ) -> Memory:
        """Returns the memory. segments: 0 is padding, 1, 2, ... are documents that do not see each other; None is one document a row.

        positions default to 0, 1, ... in every document. types: token types, 0 where there are none. extra_BSE: features that are
        projected and added to the embeddings. embedding: a table to use instead of an own one.
        """
        length = tokens_BS.shape[1]
        if types_BS is not None and not self.num_types:
            raise ValueError("this encoder has no token types: set num_types, or give types_BS=None")
        if self.position == "learned" and positions_BS is None and length > (self.num_positions or self.max_length):
            raise ValueError(f"{length} tokens exceed the {self.num_positions or self.max_length} learned positions")
        if positions_BS is None:
            positions_BS = jnp.arange(length, dtype=jnp.int32)[None] if segments_BS is None else masks.positions_in_segments(segments_BS)
        if segments_BS is not None:
            # whatever stands in padding, a wild index included, must not become a NaN that masks cannot stop
            real_BS = segments_BS != 0
            tokens_BS, positions_BS = (jnp.where(real_BS, x, 0) for x in (tokens_BS, positions_BS))
            types_BS = None if types_BS is None else jnp.where(real_BS, types_BS, 0)
            extra_BSE = None if extra_BSE is None else jnp.where(real_BS[:, :, None], extra_BSE, jnp.zeros((), extra_BSE.dtype))

        x_BSD = self._embedded(tokens_BS, positions_BS, types_BS, extra_BSE, embedding)
        x_BSD = self.embedding_dropout(x_BSD, deterministic)
        table_CN = self.position_bias if self.position == "t5" else None
        relative = parts.relative_positions(self, positions_BS, table_CN, bidirectional=True)
        context = Context(positions_BS, positions_BS, segments_BS, segments_BS, **relative, deterministic=deterministic)
        x_BSD, _ = self.stack(x_BSD, context)
        if self.norm_position != "post":
            x_BSD = self.final_norm(x_BSD)
        return Memory(x_BSD, jnp.ones(tokens_BS.shape, jnp.int32) if segments_BS is None else segments_BS)

    def _embedded(self, tokens_BS, positions_BS, types_BS, extra_BSE, embedding) -> jax.Array:
        position_table = self.position_embedding if self.position == "learned" else None
        x_BSD = parts.embed(self, embedding or self.token_embedding, position_table, tokens_BS, positions_BS)
        if self.num_types:
            x_BSD += self.type_embedding(jnp.zeros_like(tokens_BS) if types_BS is None else types_BS)
        if extra_BSE is not None:
            x_BSD += self.extra(extra_BSE)
        return self._embedding_norm(x_BSD) if self.embedding_norm else x_BSD
