"""Prompt tuning (Lester et al. 2021): learned vectors that stand before every text as if they were embedded tokens.

They are tokens of ids beyond the vocabulary whose embeddings the adapter owns, put between a row's padding and its first token; they get
the positions before it, are read by everything after them, and fill a cache before the first token does. What the model returns has no
entries for them, so labels, weights and word positions are those of the text, and the loss knows nothing of them. A row holds one text.
"""

import contextvars
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from decoder_lab.adapters import base
from decoder_lab.adapters.places import Place, kind_of, of_kind
from decoder_lab.core import tree
from decoder_lab.core.errors import UserError
from decoder_lab.layers.embedding import Embedding
from decoder_lab.layers.initialization import normal

PROMPT = "prompt"
_VIRTUAL = 1 << 30  # the virtual tokens' ids begin here, beyond every vocabulary


@dataclasses.dataclass(frozen=True)
class _Call:
    """What a call of the model does at the moment: whether virtual tokens are put in, and the embeddings of those that were."""

    inserts: bool
    prompt: jax.Array | None = None


_CALL: contextvars.ContextVar[_Call | None] = contextvars.ContextVar("prompt", default=None)


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    return [] if kw["num_tokens"] >= 1 else [f"num_tokens must be at least 1, got {kw['num_tokens']}"]


@dataclasses.dataclass(frozen=True)
class Adapter(base.Adapter):
    """The model is made for `num_tokens` more positions than sequence_length: learned tables of positions must have them.

    Attributes:
      num_tokens: virtual tokens.
      begin_with: the embeddings of tokens of the vocabulary, drawn without repetition, or normal values of their spread.
      side: what reads them: the encoder or the decoder. "auto": the encoder, where there is one.
    """

    num_tokens: int = 8
    begin_with: Literal["vocabulary", "normal"] = "vocabulary"
    side: Literal["auto", "encoder", "decoder"] = "auto"

    @property
    def lengthens(self) -> int:
        """Entries that it puts before each text."""
        return self.num_tokens

    def added(self, places: dict[str, Place], params: Any, key: jax.Array) -> dict[str, jax.Array]:
        sides = ("encoder", "decoder") if self.side == "auto" else (self.side,)
        readers = next((found for side in sides if (found := of_kind(places.values(), side))), [])
        leaves = {}
        for reader in readers:
            table = self._table(reader, params)
            name = base.key_of(key, reader.leaf(PROMPT))
            if self.begin_with == "vocabulary":
                rows = jax.random.choice(name, table.shape[0], (self.num_tokens,), replace=self.num_tokens > table.shape[0])
                leaves[reader.leaf(PROMPT)] = jnp.take(table, rows, axis=0)
            else:
                leaves[reader.leaf(PROMPT)] = normal(1.0)(name, (self.num_tokens, table.shape[1])) * jnp.std(table)
        if not leaves:
            raise base.nowhere(self, places, f"the tokens that an {' or '.join(sides)} reads")
        return leaves

    def _table(self, reader: Place, params: Any) -> jax.Array:
        """Returns the token embeddings that a reader looks up: its own, or those that all share."""
        flat = tree.flatten(params)
        for path in (reader.leaf("token_embedding/embedding"), "token_embedding/embedding"):
            if path in flat:
                return flat[path]
        raise UserError(f'adapt: prompt: "{reader.path}" has no token_embedding, before whose tokens virtual ones could stand.')

    def applied(self, model: nn.Module, run: Callable, args: tuple, kwargs: dict) -> Any:
        """Before an empty cache is written the virtual tokens go into it; before one that holds something they do not."""
        cache, length = kwargs.get("cache"), args[0].shape[1] if args and hasattr(args[0], "shape") else 0
        if cache is None and self._of_decoder(model) and "mutable" in kwargs and "method" not in kwargs:
            return self._weights_of_text(run(*args, **kwargs), length)
        if cache is None or not self._of_decoder(model):
            return run(*args, **kwargs)

        def branch(inserts: bool) -> Callable:
            def branch_fn() -> Any:
                token = _CALL.set(_Call(inserts))
                try:
                    out = run(*args, **kwargs)
                finally:
                    _CALL.reset(token)
                return out if "mutable" not in kwargs else self._weights_of_text(out, length)

            return branch_fn

        return jax.lax.cond(_is_empty(cache), branch(True), branch(False))

    def _of_decoder(self, model: nn.Module) -> bool:
        return self.side == "decoder" or (self.side == "auto" and not hasattr(model, "encoder"))

    def _weights_of_text(self, out: tuple, length: int) -> tuple:
        """Returns (out, what was sown), the weights_BNTS of attention cut to the text's own tokens."""

        def cut(x: jax.Array) -> jax.Array:
            x = x[..., -length:, :] if x.ndim > 2 else x
            return x[..., -length:] if x.shape[-1] == length + self.num_tokens else x

        return out[0], jax.tree.map(cut, out[1])

    def around(self, module: nn.Module, call: Callable, args: tuple, kwargs: dict) -> Any:
        now = _CALL.get()
        if now is not None and now.prompt is not None:
            return self._looked_up(now.prompt, module, call, args) if module.name == "token_embedding" else call(*args, **kwargs)
        if not module.has_variable("params", PROMPT):
            return call(*args, **kwargs)
        rate = kwargs.get("sampling_rate", 0.0)
        if not isinstance(rate, int | float) or rate > 0:
            raise UserError("adapt: prompt: scheduled sampling would replace virtual tokens: set task.kw.sampling_rate to 0.")
        if now is not None and not now.inserts:
            positions = kwargs.get("positions_BT")
            return call(*args, **kwargs | ({} if positions is None else {"positions_BT": positions + self.num_tokens}))
        tokens, *rest = args
        pages = {name: x for name, x in kwargs.items() if name.endswith(("_BT", "_BS", "_BSE")) and x is not None}
        token = _CALL.set(_Call(True, module.get_variable("params", PROMPT)))
        try:
            out = call(self._tokens(tokens, pages), *rest, **kwargs | self._pages(tokens, pages))
        finally:
            _CALL.reset(token)
        return self._cut(out, next((pages[name] for name in pages if name.startswith("segments")), None), kind_of(module))

    def _looked_up(self, prompt_PD: jax.Array, table: Embedding, call: Callable, args: tuple) -> jax.Array:
        """Returns the embeddings of tokens of which some are virtual."""
        virtual = args[0] >= _VIRTUAL
        place = jnp.clip(args[0] - _VIRTUAL, 0, self.num_tokens - 1)
        own = jnp.take(prompt_PD, place, axis=0).astype(table.dtype)
        return jnp.where(virtual[..., None], own, call(jnp.where(virtual, 0, args[0])))

    def _places(self, tokens_BT: jax.Array, pages: dict) -> tuple[jax.Array, jax.Array]:
        """Returns, for the longer rows, (number of the virtual token, not in [0, P) for others; entry of the old row), int32 [B, P + T]."""
        batch, length = tokens_BT.shape
        segments = next((pages[name] for name in pages if name.startswith("segments")), None)
        padding_B = jnp.zeros((batch,), jnp.int32)
        if segments is not None:
            padding_B = jnp.sum(jnp.cumsum(jnp.broadcast_to(segments, tokens_BT.shape) != 0, axis=1) == 0, axis=1, dtype=jnp.int32)
        entry_BU = jnp.broadcast_to(jnp.arange(length + self.num_tokens, dtype=jnp.int32)[None], (batch, length + self.num_tokens))
        number_BU = entry_BU - padding_B[:, None]
        old_BU = jnp.where(number_BU < 0, entry_BU, jnp.maximum(entry_BU - self.num_tokens, padding_B[:, None]))
        return number_BU, jnp.minimum(old_BU, length - 1)

    def _tokens(self, tokens_BT: jax.Array, pages: dict) -> jax.Array:
        number_BU, old_BU = self._places(tokens_BT, pages)
        virtual_BU = (number_BU >= 0) & (number_BU < self.num_tokens)
        return jnp.where(virtual_BU, _VIRTUAL + number_BU, jnp.take_along_axis(tokens_BT, old_BU, axis=1))

    def _pages(self, tokens_BT: jax.Array, pages: dict) -> dict[str, jax.Array]:
        """Returns what belongs to the tokens for the longer rows; a virtual token is of its text's first token's segment and type."""
        number_BU, old_BU = self._places(tokens_BT, pages)
        virtual_BU = (number_BU >= 0) & (number_BU < self.num_tokens)
        found = {}
        for name, page in pages.items():
            if name.endswith("_BSE"):
                page = jnp.take_along_axis(page, old_BU[..., None], axis=1)
                found[name] = jnp.where(virtual_BU[..., None], jnp.zeros((), page.dtype), page)
                continue
            page = jnp.take_along_axis(jnp.broadcast_to(page, tokens_BT.shape), old_BU, axis=1)
            if name.startswith("positions"):
                page = jnp.where(virtual_BU, number_BU.astype(page.dtype), page + self.num_tokens)
            if name.startswith("segments"):  # in a row of nothing but padding too: the text may only begin with the next call
                page = jnp.where(virtual_BU, jnp.maximum(page, 1), page)
            found[name] = page
        return found

    def _cut(self, out: Any, segments_BS: jax.Array | None, kind: str | None) -> Any:
        """Returns what a reader returned without the virtual tokens."""

        def cut(x: jax.Array) -> jax.Array:
            return x[:, self.num_tokens :]

        if kind == "decoder":
            return cut(out[0]), *out[1:]
        fields = dict(values_BSD=cut(out.values_BSD), segments_BS=cut(out.segments_BS) if segments_BS is None else segments_BS)
        if out.embeddings_BSD is not None:
            fields["embeddings_BSD"] = cut(out.embeddings_BSD)
        return out.replace(**fields, segment_states=jax.tree.map(cut, out.segment_states))


def _is_empty(cache: Any) -> jax.Array:
    """Returns whether nothing has been written to a cache: every integer in it is 0."""
    numbers = [cache["index"]] if "index" in cache else [x for x in jax.tree.leaves(cache) if jnp.issubdtype(x.dtype, jnp.integer)]
    return jnp.all(jnp.stack([jnp.all(x == 0) for x in numbers]))
