"""An LSTM or GRU decoder with any of the classical attentions, or none; without memory a recurrent language model.

Reads tokens_BT int32, segments_BT (0: padding, anywhere; 1, 2, ...: documents, each beginning with the encoder's states of its own) and a
Memory.

| decoder of | fields |
|---|---|
| Sutskever et al. 2014 | attention="none", bridge="copy", output="hidden" (and the encoder's reverse_source) |
| Cho et al. 2014 | cell="gru", attention="none", context_input=True, output="deep" or "maxout" |
| Bahdanau et al. 2014 | cell="gru", attention="additive", context_input=True, bridge="backward", output="maxout" |
| Luong et al. 2015 | attention="dot" "general" or "concat", bridge="copy", output="luong", input_feeding=True; window for local attention |
| any of these, multi-head | attention_heads, with attention="scaled_dot" as in Vaswani et al. 2017 |
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.layers.attentive_recurrent import AttentiveRecurrent, Reading, empty_cache
from decoder_lab.layers.dropout import Dropout
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.linear import Linear
from decoder_lab.layers.memory import Memory
from decoder_lab.layers.recurrent import TimeDropout
from decoder_lab.ops import masks


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    for name in ("width", "embedding_dim", "num_layers", "attention_dim", "attention_heads", "readout_dim", "window"):
        if kw[name] is not None and kw[name] < 1:
            found.append(f"{name} must be at least 1, got {kw[name]}")
    if not 0 <= kw["dropout"] < 1:
        found.append(f"dropout must be at least 0 and below 1, got {kw['dropout']}")
    if kw["attention"] == "none":
        if kw["input_feeding"]:
            found.append('input_feeding feeds what attention read: with attention="none" use context_input')
        if kw["window"] is not None:
            found.append('window limits attention, and there is none with attention="none"')
        if kw["attention_heads"] > 1:
            found.append('attention_heads divide attention, and there is none with attention="none"')
    elif kw["attention_heads"] >= 1:
        projected = "width" if kw["attention_dim"] is None else "attention_dim"
        divided = {"dot": {"width", projected}, "general": {"width"}}.get(kw["attention"], {projected})
        for name in sorted(divided):
            if kw[name] % kw["attention_heads"]:
                found.append(f"{name} {kw[name]} is not divisible by attention_heads {kw['attention_heads']}")
    if kw["input_feeding"] and kw["output"] != "luong":
        found.append(f'input_feeding feeds the attentional hidden state of output="luong", got output="{kw["output"]}"')
    if kw["predict_centre"] and kw["window"] is None:
        found.append("predict_centre moves a window: set window too")
    return found


class Decoder(nn.Module):
    """(tokens_BT, memory) -> logits_BTV; the context entering the cells (`context_input`) also says who asks: the state before each token.

    Without `context_input` the state after each token asks (Luong). With attention="none", `context_input` gives the encoder's summary, its
    last final state, to every step and to the outputs "deep", "maxout" and "luong".
    """

    vocab_size: int
    max_length: int
    dtype: jnp.dtype
    cell: Literal["lstm", "gru"] = "lstm"
    width: int = 256
    embedding_dim: int | None = None  # None: width
    num_layers: int = 1
    attention: Literal["none", "additive", "dot", "general", "concat", "scaled_dot"] = "additive"
    attention_dim: int | None = None  # what queries and keys are projected to; None: width
    attention_heads: int = 1  # several divide that between them, and project the values too (multi-head, Vaswani et al. 2017)
    window: int | None = None  # local attention: keys within this many of the target's position (Luong et al. 2015)
    predict_centre: bool = False  # of a predicted position instead, with a Gaussian (local-p)
    context_input: bool = False
    input_feeding: bool = False  # the attentional hidden state enters the next step (Luong et al. 2015)
    bridge: Literal["linear", "backward", "copy", "zero"] = "linear"  # see layers/bridge.py
    output: Literal["hidden", "luong", "deep", "maxout"] = "luong"  # h; tanh(W [c; h]); [embedding; c; h]; maxout of all three
    readout_dim: int | None = None  # of "luong" and "maxout"; None: width
    tie_embeddings: bool = False
    output_bias: bool = True
    dropout: float = 0.0  # of the embeddings, between layers, before the logits
    variational: bool = False  # one dropout mask for all time (Gal & Ghahramani 2016)
    forget_bias: float = 1.0  # initial bias of an LSTM's forget gate
    embedding_stddev: float = 0.1

    @property
    def context_length(self) -> None:
        """The longest context: None, a state has no limit, unlike the rows that the model was trained on (`max_length`)."""
        return None

    def setup(self):
        readout_dim = self.readout_dim or self.width
        self.token_embedding = Embedding(self.vocab_size, self.embedding_dim or self.width, self.embedding_stddev, self.dtype)
        self.embedding_dropout = TimeDropout(self.dropout, self.variational)
        self.recurrent = AttentiveRecurrent(
            cell=self.cell,
            width=self.width,
            num_layers=self.num_layers,
            kind=self.attention,
            num_units=self.attention_dim or self.width,
            num_heads=self.attention_heads,
            window=self.window,
            predict_centre=self.predict_centre,
            context_input=self.context_input,
            input_feeding=self.input_feeding,
            attentional_dim=readout_dim if self.output == "luong" else None,
            bridge=self.bridge,
            dropout=self.dropout,
            variational=self.variational,
            forget_bias=self.forget_bias,
            dtype=self.dtype,
        )
        if self.output == "maxout":
            self.maxout = Linear(2 * readout_dim, dtype=self.dtype, stddev=self.width**-0.5)
        if self.tie_embeddings:
            self.projection = Linear(self.embedding_dim or self.width, False, self.width**-0.5, self.dtype)
        else:
            self.unembedding = Linear(self.vocab_size, self.output_bias, self.width**-0.5, self.dtype, jnp.float32)
        self.output_dropout = Dropout(self.dropout)

    def __call__(
        self,
        tokens_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        segments_BT: jax.Array | None = None,
        cache: dict | None = None,
        memory: Memory | None = None,
        embedding: Embedding | None = None,
        deterministic: bool = True,
        return_hidden: bool = False,
        sampling_rate: jax.Array | float = 0.0,
    ):
        """Returns (logits_BTV float32, or hidden_BTD in the compute dtype for `unembed`; cache).

        Positions default to 0, 1, ... within every document (going on from a cache) and matter to a window only. `embedding` is used
        instead of the decoder's own table, for the logits too if tied. `sampling_rate` (may be traced) is the probability with which a
        token is replaced by a draw from what the model, without dropout, predicts there (scheduled sampling, Bengio et al. 2015); keys
        come from the stream "sampling".
        """
        if memory is not None and memory.prepared is None:
            memory = self.prepare(memory)
        if segments_BT is None and cache is not None:
            segments_BT = jnp.ones(tokens_BT.shape, jnp.int32)
        if segments_BT is not None:
            tokens_BT = jnp.where(segments_BT == 0, 0, tokens_BT)
        if positions_BT is None:
            positions_BT = _positions(tokens_BT.shape[1], segments_BT, cache)
        if (not isinstance(sampling_rate, float | int) or sampling_rate > 0) and not self.is_initializing():
            tokens_BT = self._scheduled(tokens_BT, positions_BT, segments_BT, cache, memory, embedding, sampling_rate)
        x_BTE = (embedding or self.token_embedding)(tokens_BT).astype(self.dtype)
        x_BTE = self.embedding_dropout(x_BTE.transpose(1, 0, 2), deterministic).transpose(1, 0, 2)
        reading, new = self.recurrent(x_BTE, segments_BT, positions_BT, cache, memory, deterministic)
        hidden_BTD = self.output_dropout(self._readout(x_BTE, reading), deterministic)
        if cache is not None:
            cache = {**new, "position": _next_position(positions_BT, segments_BT, cache, new["segment"])}
        return (hidden_BTD if return_hidden else self.unembed(hidden_BTD, embedding)), cache

    def _readout(self, x_BTE: jax.Array, reading: Reading) -> jax.Array:
        """Returns what the logits are a linear function of."""
        hidden_BTD = reading.state_BTW if reading.attentional_BTR is None else reading.attentional_BTR
        if self.output in ("deep", "maxout"):
            parts = (x_BTE, reading.context_BTC, reading.state_BTW)
            hidden_BTD = jnp.concatenate([part for part in parts if part is not None], axis=-1)
        if self.output == "maxout":
            pairs_BTM = self.maxout(hidden_BTD)
            hidden_BTD = jnp.max(pairs_BTM.reshape(*pairs_BTM.shape[:-1], -1, 2), axis=-1)
        if self.tie_embeddings and hidden_BTD.shape[-1] != self.projection.features:
            hidden_BTD = self.projection(hidden_BTD)
        return hidden_BTD

    def _scheduled(self, tokens_BT, positions_BT, segments_BT, cache, memory, embedding, rate) -> jax.Array:
        """Returns the tokens with some replaced by draws, each from the prediction after the tokens before it; no gradient passes.

        A text's first token stays, and so does padding. At rate 0 nothing is computed.
        """
        model, variables = self.unbind()
        shared = None if embedding is None else embedding.unbind()
        segments_BT = jnp.ones(tokens_BT.shape, jnp.int32) if segments_BT is None else segments_BT
        cache = self.init_cache(tokens_BT.shape[0], 0) if cache is None else cache
        keys_T = jax.random.split(self.make_rng("sampling"), tokens_BT.shape[1])
        params, table, cache, memory = jax.lax.stop_gradient((variables["params"], None if shared is None else shared[1], cache, memory))
        positions_BT = jnp.broadcast_to(positions_BT, tokens_BT.shape)

        def one(carry, x):
            (cache, logits_BV), (token_B, position_B, segment_B, key) = carry, x
            draw_key, choice_key = jax.random.split(key)
            first_B = cache["segment"] != segment_B
            chosen_B = jax.random.bernoulli(choice_key, rate, token_B.shape) & ~first_B & (segment_B != 0)
            token_B = jnp.where(chosen_B, jax.random.categorical(draw_key, logits_BV).astype(token_B.dtype), token_B)
            new_logits_B1V, cache = model.apply(
                {"params": params},
                token_B[:, None],
                positions_BT=position_B[:, None],
                segments_BT=segment_B[:, None],
                cache=cache,
                memory=memory,
                embedding=None if shared is None else shared[0].bind(table),
            )
            logits_BV = jnp.where((segment_B != 0)[:, None], new_logits_B1V[:, 0], logits_BV)
            return (cache, logits_BV), token_B

        def drawn():
            logits_BV = jnp.zeros((tokens_BT.shape[0], self.vocab_size), jnp.float32)
            _, tokens_TB = jax.lax.scan(one, (cache, logits_BV), (tokens_BT.T, positions_BT.T, segments_BT.T, keys_T))
            return tokens_TB.T

        return jax.lax.cond(rate > 0, drawn, lambda: tokens_BT)

    def unembed(self, hidden_BTD: jax.Array, embedding: Embedding | None = None) -> jax.Array:
        """Returns float32 logits_BTV of the hidden states that `return_hidden` gives."""
        if self.tie_embeddings:
            return (embedding or self.token_embedding).attend(hidden_BTD)
        return self.unembedding(hidden_BTD)

    def prepare(self, memory: Memory) -> Memory:
        """Returns the memory with what every step reads: projected keys and the states to begin with."""
        return self.recurrent.prepare(memory)

    def init_cache(self, batch_size: int, max_length: int) -> dict:
        """Returns the cache before the first token, whatever `max_length`; needs no parameters."""
        del max_length
        readout_dim = self.readout_dim or self.width
        read = empty_cache(self.cell, batch_size, self.width, self.num_layers, readout_dim if self.input_feeding else None)
        return {**read, "position": jnp.zeros((batch_size,), jnp.int32)}  # of the next entry of the document "segment"


def _positions(length: int, segments_BT: jax.Array | None, cache: dict | None) -> jax.Array:
    """Returns 0, 1, ... in every document, wherever padding stands; the one that a cache has open goes on."""
    if segments_BT is None:
        return jnp.arange(length, dtype=jnp.int32)[None]
    positions_BT = masks.positions_in_segments(segments_BT)
    if cache is None:
        return positions_BT
    return positions_BT + jnp.where(segments_BT == cache["segment"][:, None], cache["position"][:, None], 0)


def _next_position(positions_BT: jax.Array, segments_BT: jax.Array, cache: dict, segment_B: jax.Array) -> jax.Array:
    """Returns the position that follows in the document `segment_B`, which is open after these entries."""
    next_B = jnp.max(jnp.where(segments_BT == segment_B[:, None], positions_BT + 1, 0), axis=1)
    return jnp.where(segment_B == cache["segment"], jnp.maximum(cache["position"], next_B), next_B)
