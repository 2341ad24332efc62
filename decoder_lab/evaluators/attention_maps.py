"""Where a model looks while it learns: the attention weights of every layer for one fixed text of a split, or a few."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import feed
from decoder_lab.decoding import attention_weights
from decoder_lab.decoding.text import decode_fn, piece
from decoder_lab.parallel import mesh as meshes

MOST_WEIGHTS = 8_000  # of a text that are written, some 50 kB
ALONG_TIME = ("tokens", "labels", "weights", "segments", "positions")


@dataclasses.dataclass
class Evaluator:
    """Gives a detail for each text, "0", "1", ...: of a model that reads a source where each predicted token looks in it, of any other
    where each token looks in its own text. Of a row of several texts the first is shown, of a long one the beginning.

    No more than 8,000 weights of a text are written: of many heads their mean in each layer, and if that is too much, fewer tokens.

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: texts, evenly spread over the split.
      most_tokens: shown of each.
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int = 1
    most_tokens: int = 24

    @functools.cached_property
    def _weights(self) -> Any:
        context, task, most = self.context, self.context.task, self.most_tokens
        if getattr(task, "loss_chunk", 0):
            task = dataclasses.replace(task, loss_chunk=0)

        def weights(params: Any, batch: dict) -> list[dict[str, jax.Array]]:
            watched = _Watched(context.model)
            task.metrics(watched, params, batch)
            found = [layer for sown in watched.sown for layer in attention_weights.by_layer(sown, _has_source(batch))]
            wanted = batch["tokens"].shape[1], batch["source" if _has_source(batch) else "tokens"].shape[1]
            found = [(name, w_BNTS) for name, w_BNTS in found if w_BNTS.shape[2:] == wanted and not _of_source(name, batch)]
            return [{name: w_BNTS[:, :, :most, :most]} for name, w_BNTS in found]

        return context.compiled(weights)

    def run(self, state: Any) -> dict[str, Any]:
        """Returns {"0": detail, ...}. Errors: UserError where the task has no single text a row, or the model no attention."""
        context = self.context
        params, devices = context.params(state), meshes.num_shares(context.mesh)
        found: dict[str, Any] = {}
        for batch in feed.evaluation_batches(context.rows(self.split), -(-self.limit // devices) * devices, self.limit, devices):
            if np.ndim(batch.get("tokens")) != 2 or ("source" in batch) != _has_source(batch):
                raise UserError("evaluator attention_maps: this task has no single text a row whose attention could be shown.")
            real = [np.any(weights) for weights in batch["weights"]]  # whose targets may begin behind what is shown
            batch = self._beginning(batch)
            layers = meshes.fetch(self._weights(params, meshes.shard_whole(batch, context.mesh)), context.mesh)
            if not layers:
                raise UserError("evaluator attention_maps: this model has no attention weights to show: take the evaluator out.")
            for row in range(len(batch["tokens"])):
                if len(found) < self.limit and real[row]:
                    named = [(name, np.asarray(w_BNTS[row], np.float64)) for layer in layers for name, w_BNTS in layer.items()]
                    found[str(len(found))] = self._detail({name: x[row] for name, x in batch.items()}, named)
        return found

    def _beginning(self, batch: dict) -> dict:
        """Returns a batch without what stands behind the tokens that are shown, where these don't look at it."""
        causal = hasattr(self.context.model, "init_cache") and "labels" in batch and "prefix" not in batch
        if not causal or self.context.mesh.shape.get("context", 1) > 1:
            return batch
        return {name: x[:, : self.most_tokens] if name in ALONG_TIME else x for name, x in batch.items()}

    def _detail(self, row: dict, layers: list[tuple[str, np.ndarray]]) -> dict[str, Any]:
        """Returns the detail of one row, with its weights_NTS of each layer."""
        context, source = self.context, _has_source(row)
        at_T, at_S = _first(row["tokens"], row.get("segments")), _first(row["source"], row["source_segments"]) if source else None
        at_T = at_T[: self.most_tokens]
        at_S = at_T if at_S is None else at_S[: self.most_tokens]
        if sum(len(w_NTS) for _, w_NTS in layers) * len(at_T) * len(at_S) > MOST_WEIGHTS:
            layers = [(f"{name}, mean of {len(w)} heads" if len(w) > 1 else name, w.mean(axis=0, keepdims=True)) for name, w in layers]
            most = math.isqrt(MOST_WEIGHTS // len(layers))
            at_T, at_S = at_T[:most], at_S[:most]
        shown_T = row["labels" if source else "tokens"][at_T]
        ids_S, tokenizer = (row["source"], context.source_tokenizer) if source else (row["tokens"], context.tokenizer)
        rows, columns = [piece(context.tokenizer, int(i)) for i in shown_T], [piece(tokenizer, int(i)) for i in ids_S[at_S]]
        cut = [(name, w_NTS[:, at_T][:, :, at_S]) for name, w_NTS in layers]
        return attention_weights.detail(cut, rows, columns, decode_fn(context.tokenizer)(shown_T.tolist()), digits=2)


class _Watched:
    """A model whose attention weights are kept at every call; all else is the model's own."""

    def __init__(self, model: Any):
        self._model, self.sown = model, []

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        out, sown = self._model.apply(variables, *args, **{**kwargs, "mutable": ["attention"]})
        self.sown.append(sown.get("attention", {}))
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _has_source(batch: dict) -> bool:
    return "source" in batch and "labels" in batch


def _of_source(name: str, batch: dict) -> bool:
    """Whether a layer is one of an encoder whose decoder is shown."""
    return _has_source(batch) and name.startswith("encoder")


def _first(tokens_T: np.ndarray, segments_T: np.ndarray | None) -> np.ndarray:
    """Returns the places of a row's first text; padding, segment 0, may stand before it."""
    if segments_T is None:
        return np.arange(len(tokens_T))
    there = np.flatnonzero(segments_T)
    return np.flatnonzero(segments_T == segments_T[there[0]]) if len(there) else there


def problems(kw) -> list[str]:
    """Texts and tokens are counted from 1."""
    return [f"{name}: got {kw[name]}, expected 1 or more." for name in ("limit", "most_tokens") if kw[name] < 1]


def numbers(kw, task) -> list[str]:
    """None: it shows something."""
    return []
