"""Texts written for a split and scored: BLEU, chrF, ROUGE, exact match, with a few of them to read."""

import dataclasses
import functools
import importlib.util
import json
from typing import Any, Literal

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.decoding.batches import generate_shared
from decoder_lab.decoding.generate import Generation, Generator
from decoder_lab.decoding.settings import Beam, Sampling
from decoder_lab.metrics import text as metrics
from decoder_lab.parallel import processes

PACKAGES = {"rouge": "rouge_score", **dict.fromkeys(("bleu", "tokenised_bleu", "chrf", "chrf++"), "sacrebleu")}  # that scores need


@dataclasses.dataclass
class Evaluator:
    """Writes the target of every source, and compares with `target`, or with `references` where an item has them.

    bleu is sacrebleu's with `tokenize` and `lowercase`; tokenised_bleu is that of texts as they are, lower-cased and split at blanks: the
    figure of tutorials whose data is tokenised (it compares with no other set-up, KNOWN_BUGS 23); rouge gives rouge1, rouge2 and rougeL;
    exact_match and token_accuracy are in 0..1, all others in 0..100. "signature" is sacrebleu's, "samples" are sources, references and
    texts to read.
    Texts depend on the parameters, their source and the settings only: on no batch, and on no order (KNOWN_BUGS 13).

    Attributes:
      context: given by the lab.
      split: which part of the data.
      limit: items that are used, evenly spread over the split; None is all of them.
      metrics: which scores.
      tokenize: of bleu: "13a" for text as it is written, "zh" for Chinese, "none" where it is tokenised already.
      characters: of rouge: each Chinese, Japanese or Korean character is a word; False leaves them out.
      lowercase: of bleu and chrf: capitals count as small letters.
      beam_size: 1 takes the most probable token, or samples with a temperature; more searches.
      length_penalty, length_norm, coverage_penalty: of the beam, see `decoding.settings.Beam`.
      min_tokens: tokens before a text may end.
      temperature, top_k, top_p: of sampling, see `decoding.settings.Sampling`; temperature 0 is greedy.
      num_tokens: most tokens of a text.
      length_factor: most tokens of a text for each token of its source (and a few more).
      batch_size: texts at once; it changes nothing but speed and memory.
      samples: how many texts are shown, the first of those that are used.
      save: whether all texts are written to outputs/<name or split>-<step>.jsonl in the run's folder.
      name: of that file, where there are several such evaluators.
    """

    context: Any
    split: Literal["train", "validation", "test"] = "validation"
    limit: int | None = None
    metrics: tuple[Literal["bleu", "tokenised_bleu", "chrf", "chrf++", "rouge", "exact_match", "token_accuracy"], ...] = ("bleu", "chrf")
    tokenize: Literal["13a", "zh", "intl", "char", "none"] = "13a"
    characters: bool = False
    lowercase: bool = False
    beam_size: int = 1
    length_penalty: float = 0.0
    length_norm: Literal["gnmt", "power"] = "gnmt"
    coverage_penalty: float = 0.0
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    num_tokens: int = 256
    length_factor: float = 2.0
    batch_size: int = 64
    samples: int = 3
    save: bool = True
    name: str = ""

    def __post_init__(self):
        lacking = {name: PACKAGES[name] for name in self.metrics if name in PACKAGES and importlib.util.find_spec(PACKAGES[name]) is None}
        if lacking:
            packages = " ".join(dict.fromkeys(lacking.values()))
            raise UserError(f"evaluator generation: {', '.join(lacking)} needs what is not installed: pip install {packages}")

    @functools.cached_property
    def _generator(self) -> Generator:
        if not hasattr(self.context.task, "prompt"):
            raise UserError("evaluator generation: this task writes no text from a source; use it with sequence_to_sequence and its like.")
        return Generator.for_task(self.context.model, self.context.tokenizer, self.context.task)

    @property
    def _settings(self) -> Beam | Sampling:
        if self.beam_size > 1:
            return Beam(self.beam_size, self.length_penalty, self.length_norm, self.coverage_penalty, self.min_tokens)
        return Sampling(min_tokens=self.min_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def run(self, state: Any) -> dict[str, float | str]:
        """Returns {score: number}, and the texts "signature" and "samples"."""
        context = self.context
        numbers, items = self._chosen()
        texts = generate_shared(
            self._generator,
            context.params(state),
            [context.task.prompt(raw) for raw in items],
            self._settings,
            num_tokens=self.num_tokens,
            length_factor=self.length_factor,
            batch_size=self.batch_size,
            seed=context.seed,
            numbers=numbers,
        )
        references = [list(raw.get("references") or [raw["target"]]) for raw in items]
        if self.save and processes.first():
            self._save(int(state.step), numbers, items, references, texts)
        how = (self.tokenize, self.lowercase, self.characters)
        found, signatures = score(self.metrics, [x.text for x in texts], references, *how)
        found["cut"] = sum(x.reason == "length" for x in texts) / len(texts)  # share of texts that did not end by themselves
        found["length"] = float(np.mean([len(x.tokens) for x in texts]))
        if signatures:
            found["signature"] = "\n".join(f"{name}: {text}" for name, text in signatures.items())
        shown = list(zip(items, references, texts, strict=True))[: self.samples]
        if shown:
            found["samples"] = "\n\n".join(f"source: {raw['source']}\nreference: {r[0]}\nwritten: {x.text}" for raw, r, x in shown)
        return found

    def _chosen(self) -> tuple[list[int], list[dict]]:
        """Returns the numbers of the items that are used, and these."""
        items = self.context.items(self.split)
        used = len(items) if self.limit is None else min(self.limit, len(items))
        numbers = [i * len(items) // used for i in range(used)]
        pair = getattr(self.context.task, "pair", lambda raw: raw)  # of a conversation, its last question and the answer
        return numbers, [pair(items[i]) for i in numbers]

    def _save(self, step: int, numbers: list[int], items: list[dict], references: list[list[str]], texts: list[Generation]) -> None:
        """Writes one JSON line an item into the run's folder."""
        folder = self.context.workdir / "outputs"
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / f"{self.name or self.split}-{step}.jsonl", "w", encoding="utf-8") as file:
            for number, raw, good, text in zip(numbers, items, references, texts, strict=True):
                line = {"index": number, "source": raw["source"], "references": good, "written": text.text}
                line |= {"score": round(text.score, 4), "ended_by": text.reason}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")


def problems(kw) -> list[str]:
    """Counts begin at 1, and the beam's settings need a beam."""
    found = [f"{name}: got {kw[name]}, expected 1 or more." for name in ("beam_size", "num_tokens", "batch_size") if kw[name] < 1]
    if kw["limit"] is not None and kw["limit"] < 1:
        found.append(f"limit: got {kw['limit']}, expected 1 or more.")
    if kw["characters"] and "rouge" not in kw["metrics"]:
        found.append(f"characters is of rouge, which is not among the metrics {', '.join(kw['metrics'])}.")
    if kw["beam_size"] == 1 and (kw["length_penalty"] or kw["coverage_penalty"]):
        found.append("length_penalty and coverage_penalty are of beam search: set beam_size above 1.")
    if kw["beam_size"] > 1 and kw["temperature"]:
        found.append(f"beam_size={kw['beam_size']} searches and does not sample: leave temperature at 0.")
    if kw["coverage_penalty"] < 0 or kw["min_tokens"] < 0 or kw["temperature"] < 0 or not 0 < kw["top_p"] <= 1:
        found.append("coverage_penalty, min_tokens and temperature must be 0 or more, top_p in (0, 1].")
    if kw["length_factor"] <= 0:
        found.append(f"length_factor: got {kw['length_factor']}, expected more than 0.")
    return found


def score(
    names: tuple[str, ...], texts: list[str], references: list[list[str]], tokenize: str, lowercase: bool, characters: bool = False
) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns ({score: number}, {score: sacrebleu's signature})."""
    how = {
        "bleu": lambda: metrics.bleu(texts, references, tokenize, lowercase),
        "tokenised_bleu": lambda: metrics.bleu(texts, references, "none", True),
        "chrf": lambda: metrics.chrf(texts, references, 0, lowercase),
        "chrf++": lambda: metrics.chrf(texts, references, 2, lowercase),
        "exact_match": lambda: metrics.exact_match(texts, references),
        "token_accuracy": lambda: metrics.token_accuracy(texts, references),
    }
    found: dict[str, Any] = {}
    signatures = {}
    for name in names:
        if name == "rouge":
            found |= metrics.rouge(texts, references, characters=characters)
            continue
        value = how[name]()
        if isinstance(value, metrics.Score):
            value, signatures[name] = value
        found[name] = value
    return found, signatures


def numbers(kw, task) -> list[str]:
    """Its scores, of rouge several, and how long texts are."""
    rouge = {"rouge": ("rouge1", "rouge2", "rougeL")}
    return [name for metric in kw["metrics"] for name in rouge.get(metric, (metric,))] + ["cut", "length"]
