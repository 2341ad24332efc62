"""What a caller chooses about decoding, as frozen dataclasses. No JAX here: flags are made from these fields, and checked first."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the logits. The fields apply in the order in which they stand; `temperature` 0 is greedy.

    Attributes:
      min_tokens: the eos token is forbidden before this many others are written; 1 forbids an empty text. 0 is off.
      repetition_penalty: the logit of every token that the row already holds, its prompt included, padding and eos not, is divided (if
        positive) or multiplied (if negative) by this (CTRL, arXiv:1909.05858, section 4.1). 1 is off.
      no_repeat_ngram: no run of this many tokens occurs twice in a row, its prompt included; eos is free. 0 is off.
      temperature: the logits are divided by this; 0 takes the most probable token and leaves the fields below without effect.
      top_k: only the k most probable tokens remain. 0 is off.
      top_p: only the fewest most probable tokens whose probabilities sum to at least this remain (nucleus, arXiv:1904.09751). 1 is off.
      min_p: only tokens at least this fraction as probable as the most probable one remain (arXiv:2407.01082). 0 is off.
    """

    min_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def problems(self) -> list[str]:
        """Returns one line for each field that is out of its range."""
        checks = [
            (self.min_tokens >= 0, f"min_tokens={self.min_tokens}: expected 0 (off) or more"),
            (self.repetition_penalty > 0, f"repetition_penalty={self.repetition_penalty}: expected more than 0 (1 is off)"),
            (self.no_repeat_ngram >= 0, f"no_repeat_ngram={self.no_repeat_ngram}: expected 0 (off) or a length of at least 1"),
            (self.temperature >= 0, f"temperature={self.temperature}: expected 0 (greedy) or more"),
            (self.top_k >= 0, f"top_k={self.top_k}: expected 0 (off) or at least 1"),
            (0 < self.top_p <= 1, f"top_p={self.top_p}: expected a probability in (0, 1] (1 is off)"),
            (0 <= self.min_p <= 1, f"min_p={self.min_p}: expected a fraction in [0, 1] (0 is off)"),
        ]
        return [text for fine, text in checks if not fine]


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search: the `size` most probable prefixes are kept at every step.

    Texts that have ended are compared by score = logprob / norm(length) + coverage_penalty * cp, where `length` counts generated tokens,
    eos included and the prompt not. Prefixes are compared by their log-probability.

    Attributes:
      size: prefixes kept a row.
      length_penalty: alpha. 0 compares plain log-probabilities, more prefers longer texts.
      length_norm: "gnmt": norm = ((5 + length) / 6)**alpha (arXiv:1609.08144, equation 14); "power": norm = length**alpha, with alpha 1 the
        mean log-probability of a token.
      coverage_penalty: beta of GNMT's equation 15: cp = sum over source positions of log(min(attention it received in all, 1)), at most 0;
        a source position that was never looked at counts as log(1e-6). 0 is off; more wants all of the source translated.
      min_tokens: the eos token is forbidden before this many others are written; 1 forbids an empty text. 0 is off.
    """

    size: int = 4
    length_penalty: float = 0.0
    length_norm: Literal["gnmt", "power"] = "gnmt"
    coverage_penalty: float = 0.0
    min_tokens: int = 0

    def problems(self) -> list[str]:
        """Returns one line for each field that is out of its range."""
        checks = [
            (self.size >= 1, f"beam size={self.size}: expected at least 1"),
            (self.length_norm in ("gnmt", "power"), f'length_norm="{self.length_norm}": expected "gnmt" or "power"'),
            (self.coverage_penalty >= 0, f"coverage_penalty={self.coverage_penalty}: expected 0 (off) or more"),
            (self.min_tokens >= 0, f"min_tokens={self.min_tokens}: expected 0 (off) or more"),
        ]
        return [text for fine, text in checks if not fine]


SAMPLING = Sampling()
GREEDY = Sampling(temperature=0.0)
