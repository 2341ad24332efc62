"""Sentences of tagged words as features: what the tasks that tag words share. NumPy only.

Raw item: {"words": [str], "tags": [str]}, for a joint intent also "label": str. Axis W: words, K: characters of a word.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.data import marks
from decoder_lab.ops import tag_schemes

UNKNOWN_CHARACTER = 1  # 0 is padding, the train split's characters begin at 2
_DIGIT = re.compile(r"\d")


@dataclasses.dataclass(frozen=True)
class TaggedWords:
    """Each word is encoded by itself, as one token or several; its first token carries the tag.

    A sentence of more than `length` tokens becomes several examples, in order; a word of more is cut. Parts begin where the scheme lets a
    sentence begin, so that no span is torn apart, unless it is longer than `length` itself or the tags are not known: then a part is as
    long as it can be. Characters are those of the word as it was written. What the tokenizer puts around a text (`start_ids`, `end_ids`,
    such as [CLS] and [SEP]) stands around every part, and counts towards its length.

    Attributes:
      tokenizer: given by the lab.
      length: given by the lab, in tokens.
      scheme: what the tags spell: "BIO", "IOB1", "BIOES" (IOBES) or "BMES" spans, or "none" (parts of speech). "auto" takes the first of
        these that all sentences of the train split keep to, "none" where no tag is "O" or looks like "B-type".
      lower_case: whether tokens are those of the word in lower case.
      zero_digits: whether tokens are those of the word with every digit as 0 (Lample et al. 2016).
      max_characters: characters of a word that are kept; a longer one gives its beginning and its end, half each.
    """

    tokenizer: Any
    length: int
    scheme: Literal["auto", "BIO", "IOB1", "BIOES", "BMES", "none"] = "auto"
    lower_case: bool = False
    zero_digits: bool = False
    max_characters: int = 20
    tags: tuple = dataclasses.field(default=(), init=False)  # names by number, from `load`, as what follows
    labels: tuple = dataclasses.field(default=(), init=False)  # of intents; empty where items have none
    found_scheme: str = dataclasses.field(default="none", init=False)
    tag_numbers: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)
    character_numbers: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)
    counts: dict = dataclasses.field(default_factory=dict, init=False, compare=False, repr=False)  # what `example` had to do

    batching = "examples"
    gold_fields = ("tags", "label")

    def allowed(self) -> tag_schemes.Transitions | None:
        """Boolean NumPy transitions between the tags; None where the tags follow no scheme."""
        return None if self.found_scheme == "none" else tag_schemes.allowed(self.tags, self.found_scheme)

    def fit(self, items: Iterable[dict]) -> dict:
        """Returns the train split's tags (with what their scheme has beside), scheme, intents and characters."""
        tags, labels, characters = collections.Counter(), set(), set()
        broken: dict[str, str] = {}  # scheme -> the first place that breaks it
        for number, raw in enumerate(items):
            words, names = self._checked(raw)
            tags.update(names)
            characters.update(*words)
            if isinstance(raw.get("label"), str | int | float):
                labels.add(raw["label"])
            for scheme in tag_schemes.SCHEMES if self.scheme == "auto" else [self.scheme]:
                if scheme != "none" and scheme not in broken and (place := tag_schemes.first_violation(names, scheme)) is not None:
                    broken[scheme] = _described(number, words, names, place)
        if not tags:
            raise UserError("task: no item of the train split has a tagged word.")
        scheme = self._scheme(list(tags), broken)
        names = sorted(tags) if scheme == "none" else tag_schemes.complete(list(tags), scheme)
        return dict(
            tags=names, scheme=scheme, labels=sorted(labels, key=lambda x: (isinstance(x, str), x)), characters="".join(sorted(characters))
        )

    def _scheme(self, tags: list[str], broken: dict[str, str]) -> str:
        if self.scheme != "auto":
            if self.scheme in broken:
                raise UserError(f"task.kw.scheme={self.scheme}: {broken[self.scheme]} Mend the data, or set task.kw.scheme=none.")
            return self.scheme
        if found := [scheme for scheme in tag_schemes.SCHEMES if scheme not in broken]:
            return found[0]
        if "O" not in tags and not any(tag_schemes.belongs(tag, s) for tag in tags for s in tag_schemes.SCHEMES):
            return "none"
        reasons = "".join(f"\n  {scheme}: {reason}" for scheme, reason in broken.items())
        raise UserError(f"task.kw.scheme=auto: the train split keeps to no scheme of tags. Mend it, or set task.kw.scheme=none.{reasons}")

    def load(self, facts: dict) -> None:
        """Takes what `fit` returned."""
        known = dict(
            tags=tuple(facts["tags"]),
            labels=tuple(facts["labels"]),
            found_scheme=facts["scheme"],
            tag_numbers={name: i for i, name in enumerate(facts["tags"])},
            character_numbers={c: i for i, c in enumerate(facts["characters"], UNKNOWN_CHARACTER + 1)},
        )
        for name, value in known.items():
            object.__setattr__(self, name, value)

    def sizes(self) -> dict[str, int]:
        """What the model is to be told."""
        return {"num_labels": len(self.tags), "char_vocab_size": len(self.character_numbers) + UNKNOWN_CHARACTER + 1}

    def texts(self, raw: dict) -> Iterator[str]:
        """Yields what the tokenizer is trained on."""
        yield " ".join(self._written(word) for word in self._checked(raw)[0])

    def example(self, raw: dict) -> list[dict[str, np.ndarray]]:
        """Raw item -> the examples of its parts; none where it has no words. Without "tags" every tag is number 0, of weight 0."""
        words, names = self._checked(raw)
        tags = [self._tag(name) for name in names] or [0] * len(words)
        pieces = [self._pieces(word) for word in words]
        parts = self._parts([len(piece) for piece in pieces], names)
        if len(parts) > 1:
            self._count(f"sentences of more than {self.room} tokens, cut into parts")
        weight = float(bool(names))  # without tags there is nothing to learn from, but to predict
        return [self._features(words[part], pieces[part], tags[part], weight) for part in parts]

    def extent(self, raw: dict) -> tuple[int, int]:
        """Returns the tokens of an item's words, and how many of them the model does not see: those of words that are too long."""
        sizes = [len(self.tokenizer.encode(self._written(word))) for word in self._checked(raw)[0]]
        return max(len(sizes), sum(sizes)), sum(max(0, size - self.room) for size in sizes)

    @property
    def room(self) -> int:
        """Tokens of words that a part has place for. Errors: UserError where there is none."""
        start, end = marks.around(self.tokenizer)
        if (room := self.length - len(start) - len(end)) < 1:
            raise UserError(f"sequence_length={self.length} has no room for a word beside what the tokenizer puts around texts: raise it.")
        return room

    def _parts(self, sizes: list[int], names: list[str]) -> list[slice]:
        """Returns the words of each part, of at most `room` tokens in all, given each word's number of tokens and its tag's name.

        With tags a part begins where a span may, so that no span is halved: in evaluation too, and only in prediction it cannot.
        """

        def may_begin(word: int) -> bool:
            return not names or self.found_scheme == "none" or tag_schemes.follows(None, names[word], self.found_scheme)

        parts, start, used, room = [], 0, 0, self.room
        for word, size in enumerate(sizes):
            used += size
            while used > room:
                end = next((i for i in range(word, start, -1) if may_begin(i)), word)
                parts.append(slice(start, end))
                used -= sum(sizes[start:end])
                start = end
        return [*parts, slice(start, len(sizes))] if sizes else []

    def _features(self, words: list[str], pieces: list[np.ndarray], tags: list[int], weight: float) -> dict[str, np.ndarray]:
        lengths = np.array([len(p) for p in pieces])
        before, after = marks.around(self.tokenizer)
        tokens = np.concatenate([before, *pieces, after]).astype(np.int32)
        return {
            "tokens": tokens,
            "segments": np.ones(len(tokens), np.int32),
            "starts": (len(before) + np.cumsum(lengths) - lengths).astype(np.int32),
            "words": np.ones(len(words), np.int32),
            "chars": np.stack([self._characters(word) for word in words]),
            "tags": np.array(tags, np.int32),
            "weights": np.full(len(words), weight, np.float32),
        }

    def dummy(self) -> dict[str, np.ndarray]:
        """The smallest batch that `forward` reads."""
        zero, one = np.zeros((1, 1), np.int32), np.ones((1, 1), np.int32)
        chars = np.zeros((1, 1, self.max_characters), np.int32)
        return {"tokens": zero, "segments": one, "starts": zero, "words": one, "chars": chars}

    def join(self, raw: dict, parts: list[list[str]]) -> list[str]:
        """Puts the tags of an item's parts, as `decode` gives them, together. Errors: ValueError where they are not as many as words."""
        found = [tag for part in parts for tag in part]
        if len(found) != len(raw["words"]):
            raise ValueError(f"expected tags for {len(raw['words'])} words, got {len(found)}")
        return found

    def fingerprint(self) -> str:
        """Changes with whatever changes `example`."""
        return f"{type(self).__module__} 3 {self.scheme} {self.lower_case} {self.zero_digits} {self.max_characters} {self.length}"

    def _checked(self, raw: dict) -> tuple[list[str], list[str]]:
        words, names = _texts(raw, "words"), _texts(raw, "tags") if raw.get("tags") else []
        if names and len(names) != len(words):
            raise UserError(f"task: expected one tag a word, got {len(words)} words and {len(names)} tags: {' '.join(words)[:80]!r}.")
        return words, names

    def _written(self, word: str) -> str:
        word = word.lower() if self.lower_case else word
        return _DIGIT.sub("0", word) if self.zero_digits else word

    def _pieces(self, word: str) -> np.ndarray:
        pieces = np.asarray(self.tokenizer.encode(self._written(word)), np.int32)
        if not len(pieces):
            self._count("words that the tokenizer makes nothing of (they stand as token 0)")
            return np.zeros(1, np.int32)
        if len(pieces) > self.room:
            self._count(f"words of more than {self.room} tokens, cut")
        return pieces[: self.room]

    def _characters(self, word: str) -> np.ndarray:
        if len(word) > self.max_characters:
            tail = self.max_characters // 2
            word = word[: self.max_characters - tail] + word[len(word) - tail :]
        numbers = [self.character_numbers.get(c, UNKNOWN_CHARACTER) for c in word]
        return np.array(numbers + [0] * (self.max_characters - len(numbers)), np.int32)

    def _tag(self, name: str) -> int:
        if name not in self.tag_numbers:
            self._count("words whose tag the train split does not have (the loss takes them for the first tag, scores do not)")
        return self.tag_numbers.get(name, 0)

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


def _texts(raw: dict, name: str) -> list[str]:
    value = raw.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        got = f"is {value!r:.60}" if name in raw else f"is not there; there are: {', '.join(raw) or 'none'}"
        raise UserError(f'task: expected a list of texts in an item\'s field "{name}", such as ["Anna", "went"], which {got}.')
    return list(value)


def _described(number: int, words: list[str], tags: list[str], place: int) -> str:
    """Returns which sentence breaks a scheme, and where."""
    before = f"after {tags[place - 1]}" if place else "at the beginning"
    what = f'tag {tags[place]} of "{words[place]}" (word {place})' if place < len(tags) else "the end"
    return f'sentence {number} ("{" ".join(words)[:60]}"): {what} must not stand {before}.'
