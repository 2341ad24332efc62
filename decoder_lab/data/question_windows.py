"""Questions on contexts as rows of features, long contexts in windows: what tasks that extract answers read. NumPy only.

Raw item: {"id": str, "question": str, "context": str, "answers": [{"text": str, "start": int}]}, without answers: the context has none;
start -1: the text stands nowhere in it. Axis Q: tokens of the question, K: characters of a token.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from decoder_lab.data import marks, named_texts

UNKNOWN_CHARACTER = 1  # 0 is padding, the train split's characters begin at 2
# a Chinese or Japanese character, a run of other letters and digits, or any single mark: what an answer can begin and end with
WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+|[^\w\s]"
)


@dataclasses.dataclass(frozen=True)
class QuestionWindows:
    """A row is the question and, after it, a window of the context, with what the tokenizer puts around and between two texts (`start_ids`,
    `middle_ids`, `end_ids`, such as [CLS] and [SEP]); where it knows of nothing, its end of text stands before and after the question. The
    first entry is never of the context: it stands for "not here". A context that is too long gives several rows; in those that do not hold
    the whole answer it counts as absent.

    Attributes:
      tokenizer: given by the lab.
      length: given by the lab: tokens in a row.
      stride: tokens from one window's beginning to the next one's, when a context needs several.
      max_question_length: tokens of a question that are read.
      lower_case: whether tokens are those of the text in lower case.
      max_characters: characters a token for models that read them; 0: none.
    """

    tokenizer: Any
    length: int
    stride: int = 128
    max_question_length: int = 64
    lower_case: bool = False
    max_characters: int = 0
    facts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to do
    _kept: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # the last context, read

    batching = "examples"
    gold_fields = ("answers",)

    def fit(self, items: Iterable[dict]) -> dict:
        """Returns the train split's characters, where characters are read."""
        characters: set[str] = set()
        if self.max_characters:
            for raw in items:
                characters.update(_text(raw, "question"), _text(raw, "context"))
        return dict(characters="".join(sorted(characters)))

    def load(self, facts: dict) -> None:
        """Takes what `fit` returned."""
        object.__setattr__(self, "facts", {c: i for i, c in enumerate(facts["characters"], UNKNOWN_CHARACTER + 1)})

    def sizes(self) -> dict[str, int]:
        """What the model is to be told."""
        return {"char_vocab_size": len(self.facts) + UNKNOWN_CHARACTER + 1}

    def texts(self, raw: dict) -> Iterator[str]:
        """Yields what the tokenizer is trained on: words with spaces between them, as they are encoded."""
        for text in (_text(raw, "question"), _text(raw, "context")):
            yield " ".join(self._written(word) for word in WORD.findall(text))

    def example(self, raw: dict) -> list[dict[str, np.ndarray]]:
        """Raw item -> the features of each window."""
        question, question_chars, _ = self._read(_text(raw, "question"))
        if len(question) > self.max_question_length:
            self._count(f"questions of more than {self.max_question_length} tokens, cut")
        before, between, after = self._marks()
        question = np.concatenate([before, question[: self.max_question_length], between]).astype(np.int32)
        question = question if len(question) else np.zeros(1, np.int32)
        context, context_chars, offsets = self._context(_text(raw, "context"))
        gold, weight = self._gold(raw, offsets)
        room = self.length - len(question) - len(after)
        if len(context) > room:
            self._count(f"contexts that do not fit beside the question into {self.length} tokens, read in windows")
        question_chars = np.pad(question_chars[: self.max_question_length], ((len(before), len(between)), (0, 0)))
        question_chars = np.pad(question_chars, ((0, len(question) - len(question_chars)), (0, 0)))
        rows = []
        for first in self._windows(len(context), room):
            window = slice(first, first + room)
            features = self._row(question, context[window], after, offsets[window], weight)
            shift = len(question) - first
            inside = gold is not None and first <= gold[0] and gold[1] < first + room
            features |= {n: np.int32(g + shift if inside else 0) for n, g in zip(("start", "end"), gold or (0, 0), strict=True)}
            if self.max_characters:
                features["chars"] = np.pad(np.concatenate([question_chars, context_chars[window]]), ((0, len(after)), (0, 0)))
            rows.append(features)
        return rows

    def extent(self, raw: dict) -> tuple[int, int]:
        """Returns an item's tokens, 0 where a text is blank, and how many of them the model does not see: a long question's last."""
        question, context = len(self._read(_text(raw, "question"))[0]), len(self._context(_text(raw, "context"))[0])
        return (question + context if question and context else 0), max(0, question - self.max_question_length)

    def _windows(self, length: int, room: int) -> range:
        """Returns where windows of `room` tokens begin: `stride` apart, the last one reaches the end, and none leaves a token out."""
        step = min(self.stride, room)
        return range(0, max(1, length - room + step), step)

    def _marks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns what stands before the question, between it and the context, and after the context."""
        (before, after), between = marks.around(self.tokenizer), marks.between(self.tokenizer)
        return (before, between, after) if len(before) or len(after) else (between, between, after)

    def _row(
        self, question: np.ndarray, context: np.ndarray, after: np.ndarray, offsets: np.ndarray, weight: float
    ) -> dict[str, np.ndarray]:
        sizes = [len(question), len(context), len(after)]
        return {
            "tokens": np.concatenate([question, context, after]),
            "segments": np.ones(sum(sizes), np.int32),
            "types": np.repeat(np.array([0, 1, 1], np.int32), sizes),
            "context": np.repeat(np.array([0, 1, 0], np.int32), sizes),
            "question": np.ones(len(question), np.int32),
            "offsets": np.pad(offsets, ((len(question), len(after)), (0, 0))),
            "weights": np.float32(weight),
        }

    def _gold(self, raw: dict, offsets: np.ndarray) -> tuple[tuple[int, int] | None, float]:
        """Returns (first, last token of the context) of the first answer that stands there, None where none does, and the row's weight."""
        answers = raw.get("answers") or []
        for answer in answers:
            start, end = answer["start"], answer["start"] + len(answer["text"])
            if start < 0 or not answer["text"] or raw["context"][start:end] != answer["text"]:
                continue
            covered = np.flatnonzero((offsets[:, 1] > start) & (offsets[:, 0] < end))
            if len(covered):
                text = raw["context"][offsets[covered[0], 0] : offsets[covered[-1], 1]]
                if text.strip() != answer["text"].strip():
                    self._count("answers that begin or end inside a word (the whole word is learned)")
                return (int(covered[0]), int(covered[-1])), 1.0
        if not answers:
            self._count("questions without an answer (only rules of SQuAD 2.0 ever score them right)")
            return None, 1.0
        self._count("questions whose answer does not stand in the context (not trained on, but scored)")
        return None, 0.0

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        pair = np.array([[0, 1]], np.int32)
        found = {"tokens": pair * 0, "segments": np.ones((1, 2), np.int32), "types": pair, "question": np.ones((1, 1), np.int32)}
        return found | ({"chars": np.zeros((1, 2, self.max_characters), np.int32)} if self.max_characters else {})

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return f"question_answering 2 {self.length} {self.stride} {self.max_question_length} {self.lower_case} {self.max_characters}"

    def _written(self, word: str) -> str:
        return word.lower() if self.lower_case else word

    def _context(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns `_read(text)`, remembered for the next question on the same context."""
        if text not in self._kept:
            self._kept.clear()
            self._kept[text] = self._read(text)
        return self._kept[text]

    def _read(self, text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns a text's tokens int32 [S], their words' characters int32 [S, K], and where those words begin and end, int32 [S, 2]."""
        tokens, chars, offsets = [], [], []
        for match in WORD.finditer(text):
            pieces = self.tokenizer.encode(self._written(match.group())).tolist() or [0]
            letters = [self.facts.get(c, UNKNOWN_CHARACTER) for c in match.group()[: self.max_characters]]
            tokens += pieces
            chars += [letters + [0] * (self.max_characters - len(letters))] * len(pieces)
            offsets += [match.span()] * len(pieces)
        shape = (len(tokens), self.max_characters)
        return np.array(tokens, np.int32), np.array(chars, np.int32).reshape(shape), np.array(offsets, np.int32).reshape(-1, 2)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _text(raw: dict, name: str) -> str:
    return named_texts.of(raw, name, named_texts.QUESTION)
