"""Classification of a text or a pair of texts: one label, any number of labels, or a score.

Batch keys: tokens, segments int32 [B,S] (segment 0 is padding); for pairs types int32 [B,S], 1 in the second text; with `characters` chars
int32 [B,S,K], 0 in padding; weights float32 [B], 0 in filler rows; and label int32 [B] (one label), label_set int32 [B,C] (any number: 1
at each of them) or label float32 [B] (a score).
"""

import collections
import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from decoder_lab.core.errors import UserError, nearest
from decoder_lab.data import labels, marks
from decoder_lab.ops.cross_entropy import cross_entropy

OUTPUT = "labels"  # of the models that it trains

NUMBERS = ("loss", "accuracy", "rmse")  # of evaluation

SHOWN = 5  # labels of a prediction that are listed with their probability, and known ones that an error lists


@dataclasses.dataclass(frozen=True)
class Task:
    """Labels are whatever the train split has, in sorted order.

    Attributes:
      tokenizer: given by the lab.
      length: given by the lab: tokens that a model sees. A longer text is cut to it as `keep` says; of a pair, the longer text gives up
        tokens first until both fit.
      kind: "single": one label, softmax. "multi": any number of labels, each by itself, sigmoid. "score": a number, squared error; the
        model's output counts standard deviations from the train split's mean.
      text_field, pair_field, label_field: fields of a raw example. A label is a string (numbers become their text, blanks around it go), a
        list of strings ("multi") or a number ("score").
      pairs: "none": there is no second text. "separator": it follows the first after the tokenizer's end of text. "types": so, and the
        encoder is told which text a token is of.
      keep: which part of a text that is too long: its "head", its "tail" or half of "both" (Sun et al. 2019).
      characters: code points of each word, marked < and >, that are given to the model too; a longer word keeps both its ends. 0: none. The
        tokenizer must be `word`.
      threshold: "multi": the probability from which on a label counts as predicted.
      label_smoothing: "single": mass spread evenly over all labels while training.
      class_weights: "balanced": while training, an example of a label weighs (number of examples) / (number of labels * examples of that
        label).
      consistency: while training, each text is read twice, with dropout of its own each time, and the loss, the mean of both, grows by so
        many times the mean of KL(p || q) and KL(q || p) of what was said ("multi": the mean over labels; "score": half the squared
        difference), half the alpha of R-Drop (Liang et al. 2021, eq. 4). A step then costs twice as much; 0: none of it.
    """

    tokenizer: Any
    length: int
    kind: Literal["single", "multi", "score"] = "single"
    text_field: str = "text"
    pair_field: str = "text_pair"
    label_field: str = "label"
    pairs: Literal["none", "separator", "types"] = "none"
    keep: Literal["head", "tail", "both"] = "head"
    characters: int = 0
    threshold: float = 0.5
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    consistency: float = 0.0
    labels: tuple = dataclasses.field(default=(), init=False)  # by `load`
    label_counts: tuple = dataclasses.field(default=(), init=False)
    scale: tuple = dataclasses.field(default=(0.0, 1.0), init=False)  # "score": mean and standard deviation
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to cut

    batching = "examples"
    gold_fields = property(lambda self: (self.label_field,))

    def fit(self, items: Iterable[dict]) -> dict:
        """Returns the train split's labels and how often each occurs, or the mean and standard deviation of its scores."""
        if self.kind == "score":
            scores = np.array([_score(*self.gold(raw), self.label_field) for raw in items], np.float64)
            return dict(mean=float(scores.mean()), deviation=float(scores.std()) or 1.0)
        counts = collections.Counter(name for raw in items for name in self.gold(raw))
        if len(counts) < (2 if self.kind == "single" else 1):
            there = ", ".join(counts) or "none"
            raise UserError(f'task: expected two or more labels in field "{self.label_field}" of the train split, got {there}.')
        return dict(labels=sorted(counts), counts=[counts[name] for name in sorted(counts)])

    def load(self, facts: dict) -> None:
        """Takes what `fit` returned."""
        if self.kind == "score":
            object.__setattr__(self, "scale", (facts["mean"], facts["deviation"]))
        else:
            object.__setattr__(self, "labels", tuple(facts["labels"]))
            object.__setattr__(self, "label_counts", tuple(facts["counts"]))

    def sizes(self) -> dict[str, int]:
        """What the model is to be told: how many numbers to put out."""
        return {"num_labels": 1 if self.kind == "score" else len(self.labels)}

    def texts(self, raw: dict) -> Iterator[str]:
        """Yields what the tokenizer is trained on."""
        yield _text(raw, self.text_field)
        if self.pairs != "none":
            yield _text(raw, self.pair_field)

    def gold(self, raw: dict) -> tuple[str, ...]:
        """Returns the labels of a raw example, one unless kind is "multi"."""
        if self.label_field not in raw:
            raise UserError(f'task: an example has no field "{self.label_field}"; there are: {", ".join(raw)}. Set task.kw.label_field.')
        label = raw[self.label_field]
        if self.kind != "multi":
            return (labels.text(label, self.label_field),)
        if not isinstance(label, list | tuple):
            raise UserError(
                f'task: kind="multi" expects a list of labels in field "{self.label_field}", got {label!r}; lists come from JSON lines.'
            )
        return tuple(labels.text(name, self.label_field) for name in label)

    def example(self, raw: dict) -> dict[str, np.ndarray]:
        """Raw example -> its features. Errors: UserError where a label is not one of the train split's."""
        tokens, types, cut = _joined(self, raw)
        if cut:
            self._count(f"texts of more than {self.length} tokens (sequence_length) cut, keeping {self.keep}")
        known = self.label_field in raw  # where not: nothing to learn from, but to predict
        if not known:
            self._count(f'items without a field "{self.label_field}" (they count for nothing)')
        features = {"tokens": tokens, "segments": np.ones(len(tokens), np.int32), "weights": np.float32(known)}
        if self.pairs != "none":
            features["types"] = types
        if self.characters:
            words = _marked_words(self.tokenizer, _text(raw, self.text_field))
            features["chars"] = _part(_codes(words, self.characters), self.length, self.keep)  # of the words that `_joined` keeps
        if self.kind == "score":
            return features | {"label": np.float32(_score(*self.gold(raw), self.label_field) if known else 0)}
        numbers = [_index(self.labels, name) for name in self.gold(raw)] if known else []
        if self.kind == "multi":
            return features | {"label_set": np.isin(np.arange(len(self.labels)), numbers).astype(np.int32)}
        return features | {"label": np.int32(numbers[0] if known else 0)}

    def extent(self, raw: dict) -> tuple[int, int]:
        """Returns an item's tokens, 0 where its texts are blank, and how many of them the model does not see."""
        tokens, _, cut = _joined(self, raw)
        return (len(tokens) + cut if any(text.strip() for text in self.texts(raw)) else 0), cut

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        ones = np.ones((1, 1), np.int32)
        chars = {"chars": np.ones((1, 1, self.characters), np.int32)} if self.characters else {}
        return {"tokens": ones * 0, "segments": ones} | chars | ({"types": ones * 0} if self.pairs != "none" else {})

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        fields = (self.kind, self.text_field, self.pair_field, self.label_field, self.pairs, self.keep, self.length, self.characters)
        return f"classification 2 {fields} {self.labels}"

    def forward(self, model: Any, batch: dict, deterministic: bool) -> jax.Array:
        """Returns float32 logits_BC."""
        extra = {"types_BS": batch["types"]} if self.pairs == "types" else {}
        extra |= {"chars_BSK": batch["chars"]} if self.characters else {}
        return model(batch["tokens"], segments_BS=batch["segments"], **extra, deterministic=deterministic)

    def metrics(self, model: Any, params: Any, batch: dict, *, rng: jax.Array | None = None, progress: Any = None) -> dict[str, tuple]:
        """Returns {name: (sum, weight)}: loss and accuracy ("multi": of whole sets; "score": none, the loss is the squared error)."""
        del progress
        twice = rng is not None and self.consistency > 0
        if twice:  # copies side by side, so that they lie on one device; each counts half
            batch = {name: jnp.repeat(x, 2, axis=0) for name, x in batch.items()}
            batch["weights"] = batch["weights"] / 2
        logits_BC = self._logits(model, params, batch, rng)
        found, weights_B = self._of_logits(logits_BC, batch, rng is not None)
        if twice:
            apart_B = _apart(self.kind, logits_BC[::2] * self.scale[1], logits_BC[1::2] * self.scale[1])
            loss, weight = found["loss"]
            found["loss"] = loss + self.consistency * jnp.sum(jnp.where(weights_B[::2] == 0, 0.0, apart_B * 2 * weights_B[::2])), weight
        return found

    def _of_logits(self, logits_BC: jax.Array, batch: dict, training: bool) -> tuple[dict[str, tuple], jax.Array]:
        """Returns (metrics, what each row's loss counts)."""
        weights_B = batch["weights"]
        if self.kind == "score":
            square_B = jnp.square(self.scale[0] + self.scale[1] * logits_BC[:, 0] - batch["label"])
            return {"loss": (jnp.sum(jnp.where(weights_B == 0, 0.0, square_B * weights_B)), jnp.sum(weights_B))}, weights_B
        if self.kind == "multi":
            return _set_metrics(logits_BC, batch["label_set"], weights_B, self.threshold, self._class_weights(training)), weights_B
        plain = cross_entropy(logits_BC, batch["label"], weights_B)
        loss, weight = plain.loss, plain.weight
        right_B = jnp.argmax(logits_BC, axis=-1) == batch["label"]  # as predicted, so that of equal scores only the first is right
        accuracy = jnp.sum(jnp.where(right_B, weights_B, 0.0)), plain.weight
        if training and (self.label_smoothing or self.class_weights != "none"):
            weights_B = weights_B * self._class_weights(training)[batch["label"]]
            trained = cross_entropy(logits_BC, batch["label"], weights_B, label_smoothing=self.label_smoothing)
            loss, weight = trained.loss, trained.weight
        return {"loss": (loss, weight), "accuracy": accuracy}, weights_B

    def predict(self, model: Any, params: Any, batch: dict) -> jax.Array:
        """Returns float32 probabilities_BC, or scores_B."""
        logits_BC = self._logits(model, params, batch, None)
        if self.kind == "score":
            return self.scale[0] + self.scale[1] * logits_BC[:, 0]
        return jax.nn.sigmoid(logits_BC) if self.kind == "multi" else jax.nn.softmax(logits_BC, axis=-1)

    def decode(self, predictions: Any, batch: dict) -> list[dict]:
        """Returns one dict a row: label and probability, labels (those above the threshold), or score; and the most probable labels."""
        del batch
        if self.kind == "score":
            return [{"score": float(x)} for x in predictions]
        probabilities_BC = np.asarray(predictions, np.float64)
        return [
            _answer(probabilities_C, self.labels, self.threshold if self.kind == "multi" else None) for probabilities_C in probabilities_BC
        ]

    def summary(self, means: dict[str, float], rows: Any) -> dict[str, float]:
        """Evaluation's means; for a score also the root of the mean squared error, in the score's unit."""
        del rows
        return means | ({"rmse": math.sqrt(means["loss"])} if self.kind == "score" else {})

    def _logits(self, model: Any, params: Any, batch: dict, rng: jax.Array | None) -> jax.Array:
        rngs = None if rng is None else {"dropout": rng}
        return model.apply({"params": params}, batch, rng is None, method=self.forward, rngs=rngs)

    def _class_weights(self, training: bool) -> jax.Array:
        if self.class_weights == "none" or not training:
            return jnp.ones((len(self.labels),), jnp.float32)
        counts_C = np.array(self.label_counts, np.float64)
        return jnp.asarray(counts_C.sum() / (len(counts_C) * counts_C), jnp.float32)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _joined(task: Task, raw: dict) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns (tokens, types) of a text, or of first, separator, second, cut so that they fit; and how many were cut.

    What the tokenizer puts around them (`start_ids`, `middle_ids`, `end_ids`, such as [CLS] and [SEP]) stands there.
    """
    first, start, end = task.tokenizer.encode(_text(raw, task.text_field)), *marks.around(task.tokenizer)
    room = task.length - len(start) - len(end) - (len(_middle(task.tokenizer)) if task.pairs != "none" else 0)
    if room < 1:
        raise UserError(f"task: sequence_length={task.length} has no room for a token between the tokenizer's marks: raise it.")
    if task.pairs == "none":
        tokens, whole = np.concatenate([start, _part(first, room, task.keep), end]), len(first) + task.length - room
        types = np.zeros(len(tokens), np.int32)
    else:
        second, middle = task.tokenizer.encode(_text(raw, task.pair_field)), _middle(task.tokenizer)
        whole, sizes = len(first) + len(second) + task.length - room, _shares(len(first), len(second), room)
        parts = [_part(x, size, task.keep) for x, size in zip((first, second), sizes, strict=True)]
        tokens = np.concatenate([start, parts[0], middle, parts[1], end])
        types = np.repeat(np.array([0, 1], np.int32), [len(start) + len(parts[0]) + len(middle), len(parts[1]) + len(end)])
    return tokens.astype(np.int32), types, whole - len(tokens)


def _middle(tokenizer: Any) -> np.ndarray:
    if not len(middle := marks.between(tokenizer)):
        raise UserError("task: pairs need a tokenizer with an end of text, such as word or sentencepiece, to stand between them.")
    return middle


def _answer(probabilities_C: np.ndarray, labels: tuple, threshold: float | None) -> dict:
    """The most probable label, or with a threshold all labels above it; and the probabilities of the likeliest."""
    order = np.argsort(-probabilities_C, kind="stable")
    if threshold is None:
        chosen = {"label": labels[order[0]], "probability": float(probabilities_C[order[0]])}
    else:
        chosen = {"labels": [name for name, p in zip(labels, probabilities_C, strict=True) if p >= threshold]}
    return {**chosen, "probabilities": {labels[i]: round(float(probabilities_C[i]), 6) for i in order[:SHOWN]}}


def _score(text: str, field: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f'task: kind="score" expects a number in field "{field}", got {text!r}.')
    return score


def _index(labels: tuple, name: str) -> int:
    if name not in labels:
        known = ", ".join(labels[:SHOWN]) + (f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else "")
        raise UserError(
            f'task: label "{name}" is not known.{nearest(name, labels)} The train split has {known}. '
            "Every label must occur there: mend the label, or choose another split."
        )
    return labels.index(name)


def _text(raw: dict, field: str) -> str:
    if not isinstance(raw.get(field), str):
        got = f"is {raw[field]!r:.60}" if field in raw else f"is not there; there are: {', '.join(raw) or 'none'}.{nearest(field, raw)}"
        raise UserError(
            f'task: expected a text in field "{field}", which {got.rstrip(".")}. Say which field it is by --config.task.kw.text_field (of '
            f"the second text pair_field), or give it this name by --config.data.source.kw.fields=\"{{'{field}': 'its name'}}\"."
        )
    return raw[field]


def _marked_words(tokenizer: Any, text: str) -> list[str]:
    if not hasattr(tokenizer, "words"):
        raise UserError("task: characters need a tokenizer whose ids are words: --config.data.tokenizer.name=word.")
    return [f"<{word}>" for word in tokenizer.words(text)]


def _codes(words: list[str], most: int) -> np.ndarray:
    """Returns the code points int32 [S, most] of words, zeros behind them."""
    chars_SK = np.zeros((len(words), most), np.int32)
    for row, word in zip(chars_SK, words, strict=True):
        codes = _part([ord(c) for c in word], most, "both")
        row[: len(codes)] = codes
    return chars_SK


def _part(tokens_T: np.ndarray, length: int, keep: str) -> np.ndarray:
    """Returns at most `length` tokens of a text."""
    tokens_T = np.asarray(tokens_T, np.int32)
    if len(tokens_T) <= length:
        return tokens_T
    head = {"head": length, "tail": 0, "both": (length + 1) // 2}[keep]
    return np.concatenate([tokens_T[:head], tokens_T[len(tokens_T) - (length - head) :]])


def _shares(first: int, second: int, room: int) -> tuple[int, int]:
    """Returns how many tokens each of two texts may have: the longer one gives up its own until both fit."""
    if first + second <= room:
        return first, second
    short = min(first, second, room // 2)
    return (room - short, short) if first > second else (short, room - short)


def _set_metrics(logits_BC, label_set_BC, weights_B, threshold: float, class_weights_C) -> dict[str, tuple]:
    """Binary cross-entropy, the mean over labels; a label that is there weighs its class weight. Accuracy is that of whole sets."""
    gold_BC = label_set_BC != 0
    loss_BC = jax.nn.softplus(jnp.where(gold_BC, -logits_BC, logits_BC)) * jnp.where(gold_BC, class_weights_C[None], 1.0)
    right_B = jnp.all((jax.nn.sigmoid(logits_BC) >= threshold) == gold_BC, axis=-1)

    def total(x_B):
        return jnp.sum(jnp.where(weights_B == 0, 0.0, x_B * weights_B)), jnp.sum(weights_B)

    return {"loss": total(jnp.mean(loss_BC, axis=-1)), "accuracy": total(right_B.astype(jnp.float32))}


def _apart(kind: str, p_BC: jax.Array, q_BC: jax.Array) -> jax.Array:
    """Returns float32 [B]: how far apart two sets of logits (or scores) of the same rows are; see `Task.consistency`."""
    if kind == "score":
        return jnp.square(p_BC - q_BC)[:, 0] / 2
    if kind == "multi":  # the mean of both divergences of two coins
        return jnp.mean((jax.nn.sigmoid(p_BC) - jax.nn.sigmoid(q_BC)) * (p_BC - q_BC), axis=-1) / 2
    p_BC, q_BC = jax.nn.log_softmax(p_BC), jax.nn.log_softmax(q_BC)
    return jnp.sum((jnp.exp(p_BC) - jnp.exp(q_BC)) * (p_BC - q_BC), axis=-1) / 2


def problems(kw) -> list[str]:
    """Returns what is wrong with the fields taken together, one sentence each."""
    found = []
    if not 0 < kw["threshold"] < 1:
        found.append(f"threshold must be above 0 and below 1, got {kw['threshold']}")
    if not 0 <= kw["label_smoothing"] < 1:
        found.append(f"label_smoothing must be at least 0 and below 1, got {kw['label_smoothing']}")
    if kw["consistency"] < 0:
        found.append(f"consistency must be at least 0, got {kw['consistency']}")
    if kw["characters"] < 0 or (kw["characters"] and kw["pairs"] != "none"):
        found.append(f'characters must be 0 or more, and have no pairs, got {kw["characters"]} with pairs="{kw["pairs"]}"')
    if kw["label_smoothing"] and kw["kind"] != "single":
        found.append(f'label_smoothing needs kind="single", got "{kw["kind"]}"')
    if kw["class_weights"] != "none" and kw["kind"] == "score":
        found.append('class_weights="balanced" needs labels, not kind="score"')
    return found
