"""A decoder-only Transformer whose known variants (GPT-2, Llama, ...) are combinations of its fields.

Reads from a batch: "tokens" int32 [B, T]; where rows hold several documents or padding, "segments" (1, 2, ...; 0 is padding) and
"positions" int32 [B, T].
"""

import functools
import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.core.errors import UserError
from decoder_lab.layers.attention import Attention, Context
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.initialization import normal
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.mlp import GATED, Mlp
from decoder_lab.layers.norm import Norm
from decoder_lab.layers.transformer import Block, Stack
from decoder_lab.ops import attention as attention_ops
from decoder_lab.ops import position_bias, rotary
from decoder_lab.ops.sinusoidal import sinusoidal

VARIANTS = {
    # GPT-2 (Radford et al. 2019); parameter counts are exact at vocabulary 50257 and length 1024: 124,439,808
    "gpt2": dict(num_layers=12, num_heads=12, width=768),
    "gpt2-medium": dict(num_layers=24, num_heads=16, width=1024),  # 354,823,168
    "gpt2-large": dict(num_layers=36, num_heads=20, width=1280),  # 774,030,080
    "gpt2-xl": dict(num_layers=48, num_heads=25, width=1600),  # 1,557,611,200
    # nanoGPT's two recipes for tiny shakespeare (65 characters): length 256 has 10,745,088 parameters, length 64 has 804,096
    "nanogpt_char": dict(num_layers=6, num_heads=6, width=384, use_bias=False, mlp="gelu_exact"),
    "nanogpt_cpu": dict(num_layers=4, num_heads=4, width=128, use_bias=False, mlp="gelu_exact"),
    # Llama-like. tiny: ours, for tests and laptops
    "llama-tiny": dict(
        num_layers=4, num_heads=4, num_kv_heads=2, width=128, mlp_dim=352, norm="rms", position="rotary", mlp="swiglu", use_bias=False
    ),
    # JackFram/llama-160m: 162,417,408 with its vocabulary of 32000
    "llama-160m": dict(
        num_layers=12, num_heads=12, width=768, mlp_dim=3072, norm="rms", norm_epsilon=1e-6, position="rotary", mlp="swiglu",
        use_bias=False, tie_embeddings=False,
    ),
    # Llama 3.2 1B: 1,235,814,400 with its vocabulary of 128256
    "llama-1b": dict(
        num_layers=16, num_heads=32, num_kv_heads=8, width=2048, mlp_dim=8192, norm="rms", position="rotary", rope_theta=500000.0,
        rope_scaling={"type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_length": 8192},
        mlp="swiglu", use_bias=False,
    ),
    # Llama 2 7B: 6,738,415,616 with its vocabulary of 32000
    "llama-7b": dict(
        num_layers=32, num_heads=32, width=4096, mlp_dim=11008, norm="rms", position="rotary", mlp="swiglu", use_bias=False,
        tie_embeddings=False, scan_layers=True,
    ),
    # Llama 3 8B: 8,030,261,248 with its vocabulary of 128256
    "llama-8b": dict(
        num_layers=32, num_heads=32, num_kv_heads=8, width=4096, mlp_dim=14336, norm="rms", position="rotary", rope_theta=500000.0,
        mlp="swiglu", use_bias=False, tie_embeddings=False, scan_layers=True,
    ),
}  # fmt: skip


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    heads, kv_heads, width = kw["num_heads"], kw["num_kv_heads"], kw["width"]
    for name in ("num_layers", "num_heads", "num_kv_heads", "head_dim", "width", "mlp_dim", "window"):
        if kw[name] is not None and kw[name] < 1:
            found.append(f"{name} must be at least 1, got {kw[name]}")
    if found:
        return found
    if kw["head_dim"] is None and width % heads:
        near = [d for d in range(max(1, heads - 4), heads + 5) if width % d == 0]
        found.append(f"width {width} is not divisible by num_heads {heads}: set head_dim, or num_heads to one of {near}")
    if kv_heads is not None and heads % kv_heads:
        found.append(f"num_heads {heads} is not divisible by num_kv_heads {kv_heads}")
    head_dim = kw["head_dim"] or width // heads
    if kw["position"] == "rotary" and head_dim % 2:
        found.append(f'position="rotary" needs an even head_dim, got {head_dim}')
    if kw["position"] == "sinusoidal" and width % 2:
        found.append(f'position="sinusoidal" needs an even width, got {width}')
    scaling = dict(kw["rope_scaling"] or {})
    if scaling:
        if kw["position"] != "rotary":
            found.append(f'rope_scaling needs position="rotary", got "{kw["position"]}"')
        needed = {
            "linear": ["factor"],
            "ntk": ["factor"],
            "yarn": ["factor", "original_max_length"],
            "llama3": ["factor", "original_max_length"],
        }
        if scaling.get("type") not in needed:
            found.append(f"rope_scaling: type must be one of {', '.join(needed)}, got {scaling.get('type')!r}")
        else:
            missing = [k for k in needed[scaling["type"]] if k not in scaling]
            if missing:
                found.append(f'rope_scaling of type "{scaling["type"]}" also needs {", ".join(missing)}')
    for name in ("dropout", "attention_dropout"):
        if not 0 <= kw[name] < 1:
            found.append(f"{name} must be at least 0 and below 1, got {kw[name]}")
    for name in ("attention_softcap", "logits_softcap"):
        if kw[name] is not None and kw[name] <= 0:
            found.append(f"{name} must be above 0 (None: no cap), got {kw[name]}")
    if kw["attention"] in ("xla", "cudnn") and (kw["attention_softcap"] is not None or kw["attention_dropout"]):
        found.append(f'attention="{kw["attention"]}" has neither a soft cap nor dropout of weights: use attention="auto"')
    return found


class Model(nn.Module):
    """tokens_BT -> logits_BTV, causal. `variant` names a preset; every other field then overrides it."""

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
    norm: Literal["layer", "rms"] = "layer"
    norm_position: Literal["pre", "post", "sandwich"] = "pre"
    norm_epsilon: float = 1e-5
    position: Literal["learned", "sinusoidal", "rotary", "alibi", "t5", "none"] = "learned"
    rope_theta: float = 10000.0
    rope_scaling: dict | None = None  # {"type": "linear" | "ntk" | "yarn" | "llama3", "factor": ...}, see ops/rotary.py
    window: int | None = None  # each token sees itself and window - 1 before it
    qk_norm: bool = False
    attention_softcap: float | None = None
    logits_softcap: float | None = None
    mlp: Literal["gelu", "gelu_exact", "relu", "squared_relu", "swiglu", "geglu"] = "gelu"
    tie_embeddings: bool = True
    scale_embeddings: bool = False  # multiply token embeddings by sqrt(width) (Vaswani et al. 2017, Gemma)
    use_bias: bool = True  # of linear layers and layer norms
    qkv_bias: bool | None = None  # None: use_bias
    dropout: float = 0.0  # after the embeddings, attention and MLP
    attention_dropout: float = 0.0  # of attention weights; excludes the fused kernels
    parallel_residual: bool = False
    scan_layers: bool = False
    remat: Literal["none", "full", "dots", "dots_no_batch"] = "none"
    attention: Literal["auto", "reference", "blocked", "xla", "cudnn"] = "auto"
    init_stddev: float = 0.02

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.width // self.num_heads

    @property
    def _mlp_dim(self) -> int:
        if self.mlp_dim is not None:
            return self.mlp_dim
        return -(-8 * self.width // 3 // 32) * 32 if self.mlp in GATED else 4 * self.width

    def setup(self):
        stddev, dtype = self.init_stddev, self.dtype
        out_stddev = stddev / math.sqrt(2 * self.num_layers)  # GPT-2: keeps the residual stream's variance at depth
        norm = functools.partial(Norm, self.norm, self.use_bias, self.norm_epsilon, dtype)
        attention = functools.partial(
            Attention,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self._head_dim,
            use_bias=self.use_bias,
            qkv_bias=self.use_bias if self.qkv_bias is None else self.qkv_bias,
            qk_norm=self.qk_norm,
            window=self.window,
            softcap=self.attention_softcap,
            dropout=self.attention_dropout,
            implementation=self.attention,
            stddev=stddev,
            out_stddev=out_stddev,
            norm_epsilon=self.norm_epsilon,
            dtype=dtype,
        )
        mlp = functools.partial(Mlp, self._mlp_dim, self.mlp, self.use_bias, stddev, out_stddev, dtype)
        block = functools.partial(Block, attention, mlp, norm, self.norm_position, self.parallel_residual, self.dropout)
        self.decoder = Stack(block, self.num_layers, self.scan_layers, self.remat)
        self.token_embedding = Embedding(self.vocab_size, self.width, stddev, dtype)
        if self.position == "learned":
            self.position_embedding = Embedding(self.max_length, self.width, stddev, dtype)
        if self.position == "t5":
            self.position_bias = self.param("position_bias", normal(stddev), (32, self.num_heads), jnp.float32)
        self.embedding_dropout = Dropout(self.dropout)
        if self.norm_position != "post":
            self.final_norm = norm()
        if not self.tie_embeddings:
            self.unembedding = Linear(self.vocab_size, False, stddev, dtype, jnp.float32)

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        cache: dict | None = None,
        memory=None,
        deterministic: bool = True,
        return_hidden: bool = False,
    ):
        """Returns (logits_BTV float32, or hidden_BTD in the compute dtype for `unembed`; cache).

        positions default to 0, 1, ... (going on from a cache's index), segments to one document a row. With a cache the T entries are
        written at its index and see what was written before. dropout needs the key stream "dropout" when not deterministic.
        """
        if memory is not None:
            raise ValueError("a decoder-only model has no cross-attention: memory must be None")
        length = tokens_BT.shape[1]
        if self.position == "learned" and cache is None and positions_BT is None and length > self.max_length:
            raise ValueError(f"{length} tokens exceed the {self.max_length} learned positions")
        if positions_BT is None:
            positions_BT = jnp.arange(length, dtype=jnp.int32)[None] + (0 if cache is None else cache["index"])
        if cache is not None and segments_BT is None:
            segments_BT = jnp.ones(tokens_BT.shape, jnp.int32)
        if segments_BT is not None:
            # whatever stands in padding, a wild index included, must not become a NaN that masks cannot stop
            tokens_BT, positions_BT = (jnp.where(segments_BT == 0, 0, x) for x in (tokens_BT, positions_BT))
        context, cache = self._context(positions_BT, segments_BT, cache)

        x_BTD = self.token_embedding(tokens_BT)
        if self.scale_embeddings:
            x_BTD *= math.sqrt(self.width)
        if self.position == "learned":
            x_BTD += self.position_embedding(positions_BT)
        elif self.position == "sinusoidal":
            x_BTD += sinusoidal(positions_BT, self.width).astype(self.dtype)
        x_BTD = self.embedding_dropout(x_BTD, deterministic)
        x_BTD, layers = self.decoder(x_BTD, context, None if cache is None else cache["layers"], deterministic)
        if cache is not None:
            cache = {**cache, "layers": layers, "index": cache["index"] + length}
        if self.norm_position != "post":
            x_BTD = self.final_norm(x_BTD)
        return (x_BTD if return_hidden else self.unembed(x_BTD)), cache

    def _context(self, positions_BT, segments_BT, cache) -> tuple[Context, dict | None]:
        """Returns what the layers share, and the cache with this call's segments and positions written."""
        k_positions_BS, k_segments_BS, index = positions_BT, segments_BT, None
        if cache is not None:
            index = cache["index"]
            at = (jnp.zeros_like(index), index)
            k_segments_BS = jax.lax.dynamic_update_slice(cache["segments"], segments_BT.astype(jnp.int32), at)
            new_positions_BT = jnp.broadcast_to(positions_BT, segments_BT.shape).astype(jnp.int32)
            k_positions_BS = jax.lax.dynamic_update_slice(cache["positions"], new_positions_BT, at)
            cache = {**cache, "segments": k_segments_BS, "positions": k_positions_BS}
        rotary_tables = None
        if self.position == "rotary":
            rotary_tables = rotary.tables(positions_BT, self._head_dim, self.rope_theta, self.rope_scaling)
        bias_kind, bias_table = None, None
        if self.position == "alibi":
            bias_kind, bias_table = "alibi", jnp.asarray(position_bias.alibi_slopes(self.num_heads))
        elif self.position == "t5":
            bias_kind, bias_table = "t5", self.position_bias
        return Context(
            positions_BT, k_positions_BS, segments_BT, k_segments_BS, rotary_tables, bias_table, bias_kind=bias_kind, index=index
        ), cache

    def unembed(self, hidden_BTD: jax.Array) -> jax.Array:
        """Returns float32 logits_BTV of the hidden states that `return_hidden` gives."""
        if self.tie_embeddings:
            logits_BTV = self.token_embedding.attend(hidden_BTD)
        else:
            logits_BTV = self.unembedding(hidden_BTD)
        if self.logits_softcap is not None:
            logits_BTV = self.logits_softcap * jnp.tanh(logits_BTV / self.logits_softcap)
        return logits_BTV

    def describe(self, platform: str, length: int) -> str:
        """Returns what the start of a run says of this model: the attention implementation really used for rows of `length` tokens."""
        used = dict(softcap=self.attention_softcap, dropout_rate=self.attention_dropout, head_dim=self._head_dim)
        kernel = attention_ops.resolve(self.attention, platform=platform, dtype=self.dtype, num_queries=length, **used)
        return f"attention {kernel}, {self.num_layers} layers {'scanned' if self.scan_layers else 'unrolled'}"

    def flops_per_token(self, length: int) -> float:
        """Returns forward and backward FLOPs a token in rows of `length`: 6 a multiplying weight, 12 L N H T for attention (PaLM, B)."""
        heads, kv_heads = self.num_heads * self._head_dim, (self.num_kv_heads or self.num_heads) * self._head_dim
        mlp = (3 if self.mlp in GATED else 2) * self.width * self._mlp_dim
        layer = self.width * (2 * heads + 2 * kv_heads) + mlp
        return 6.0 * (self.num_layers * layer + self.vocab_size * self.width) + 12.0 * self.num_layers * heads * length

    def init_cache(self, batch_size: int, max_length: int) -> dict:
        """Returns an empty cache for `max_length` entries a row; needs no parameters."""
        if self.position == "learned" and max_length > self.max_length:
            raise UserError(f"a context of {max_length} tokens exceeds the {self.max_length} learned positions of this model.")
        heads = self.num_kv_heads or self.num_heads

        def layer(*layers: int) -> dict:
            shape = (batch_size, *layers, heads, max_length, self._head_dim)
            return {"key": jnp.zeros(shape, self.dtype), "value": jnp.zeros(shape, self.dtype)}

        return {
            "index": jnp.zeros((), jnp.int32),  # how many entries are written
            "segments": jnp.zeros((batch_size, max_length), jnp.int32),
            "positions": jnp.zeros((batch_size, max_length), jnp.int32),
            "layers": layer(self.num_layers) if self.scan_layers else tuple(layer() for _ in range(self.num_layers)),
        }
