"""Generation at the terminal: prompts in, texts out, written while they grow. JAX is imported only when a text is really asked for.

A language model goes on from the prompt. A model of pairs is given the prompt as its source and writes the target: a translation, a
summary, a reply.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any, TextIO

from decoder_lab.core.errors import UserError
from decoder_lab.decoding.settings import Beam, Sampling
from decoder_lab.serving.predict import extent

SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram")
BEAM_ONLY = ("length_penalty", "length_norm", "coverage_penalty")


@dataclasses.dataclass(frozen=True)
class Options:
    """What `--mode=generate` takes; each field is a flag of the same name.

    Attributes:
      prompt: texts to continue, or the source texts of a model of pairs (to translate, to summarise, to reply to); an empty one begins a
        new text, where the tokenizer marks where texts end.
      num_tokens: most tokens to write for each.
      temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram: see `decoding.settings.Sampling`; temperature 0 is greedy.
      beam_size: 1 samples, more searches for the most probable texts; `num_samples` of them are written, best first.
      length_penalty, length_norm, coverage_penalty: of beam search, see `decoding.settings.Beam`.
      min_tokens: tokens before a text may end.
      num_samples: texts for each prompt.
      stop: strings that end a text; they are not written themselves.
      seed: of sampling; the same seed writes the same texts.
      checkpoint: "best", "latest" or a step.
      context_length: longest context in tokens, by default that of training; a longer one is for models whose positions go on.
      stream: write a single text while it grows.
    """

    prompt: tuple[str, ...] = ("",)
    num_tokens: int = 200
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    no_repeat_ngram: int = 0
    beam_size: int = 1
    length_penalty: float = 0.0
    length_norm: str = "gnmt"
    coverage_penalty: float = 0.0
    min_tokens: int = 0
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0
    checkpoint: str = "best"
    context_length: int | None = None
    stream: bool = True

    def settings(self) -> Sampling | Beam:
        if self.beam_size > 1:
            return Beam(self.beam_size, min_tokens=self.min_tokens, **{name: getattr(self, name) for name in BEAM_ONLY})
        return Sampling(min_tokens=self.min_tokens, **{name: getattr(self, name) for name in SAMPLING_ONLY})

    def problems(self) -> list[str]:
        """Returns one line for each thing that is wrong, of all fields at once."""
        found = Sampling(min_tokens=self.min_tokens, **{name: getattr(self, name) for name in SAMPLING_ONLY}).problems()
        for name in ("num_tokens", "num_samples", "beam_size"):
            if getattr(self, name) < 1:
                found.append(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.prompt:
            found.append("prompt: expected at least one")
        found += [
            f"{name}: the text is not UTF-8: {text!a}" for name in ("prompt", "stop") for text in getattr(self, name) if _broken(text)
        ]
        if self.seed < 0:
            found.append(f"seed={self.seed}: expected 0 or more")
        if not all(self.stop):
            found.append("stop: an empty string would end every text at once")
        if self.context_length is not None and self.context_length < 2:
            found.append(f"context_length={self.context_length}: expected at least 2")
        if self.checkpoint not in ("best", "latest") and not self.checkpoint.isdecimal():
            found.append(f'checkpoint="{self.checkpoint}": expected "best", "latest" or a step such as 2000')
        return found + self._beam_problems()

    def _beam_problems(self) -> list[str]:
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        if self.beam_size == 1:
            given = [name for name in BEAM_ONLY if getattr(self, name) != defaults[name]]
            return [f"{', '.join(given)}: for beam search; also give beam_size > 1"] if given else []
        sampling = [name for name in SAMPLING_ONLY if getattr(self, name) != defaults[name]]
        found = Beam(**{name: getattr(self, name) for name in BEAM_ONLY}).problems()
        if sampling:
            found.append(f"beam_size={self.beam_size} searches and does not sample: leave out {', '.join(sampling)}, or the beam")
        if self.stop:
            found.append(f"beam_size={self.beam_size}: beam search takes no stop strings")
        if self.num_samples > self.beam_size:
            found.append(f"num_samples={self.num_samples}: a beam of {self.beam_size} has at most {self.beam_size} texts")
        return found


def _broken(text: str) -> bool:
    """Whether a text came from bytes that are not UTF-8: the command line hands these over as surrogates."""
    return any("\ud800" <= c <= "\udfff" for c in text)


def run(
    model: Any, params: Any, tokenizer: Any, options: Options, out: TextIO = sys.stdout, task: Any = None, news: TextIO | None = None
) -> None:
    """Writes each prompt and its continuations to `out`, or of a model of pairs each target.

    One text is written as it grows, and why it ended to `news`, where sources that were cut are named too; several under a line each, which
    names the prompt, the text, why it ended and its log-probability. On a terminal control characters are written out.

    Args:
      model: a Linen model of the lab, unbound; `params` are its parameters.
      tokenizer: loaded; the vocabulary that the model was trained with.
      task: one with `prompt(raw)` says what the model is given of a source; None is language modelling.

    Raises:
      UserError: with all problems of the options, for a model that writes no text, for a blank source of a model of pairs, or for an empty
        prompt where the tokenizer has no end of text to begin after.
    """
    if problems := options.problems():
        raise UserError("\n".join(problems))
    from decoder_lab.decoding.batches import stack
    from decoder_lab.decoding.generate import Generator

    generator = Generator.for_task(model, tokenizer, task, options.context_length)
    prompts, shown = [Prompt.of(text, tokenizer, task) for text in options.prompt], _shown_fn(out)
    settings, news = options.settings(), news or sys.stderr
    common = dict(num_tokens=options.num_tokens, settings=settings, seed=options.seed, num_samples=options.num_samples, stop=options.stop)
    if len(prompts) == options.num_samples == 1 and options.stream and isinstance(settings, Sampling):
        _stream(generator, params, prompts[0], options, common, lambda piece: (out.write(shown(piece)), out.flush()), news)
        _say_cut(prompts, news)
        return
    results = generator.generate(params, [p.tokens for p in prompts], inputs=stack([p.inputs for p in prompts]), **common)
    for number, (prompt, found) in enumerate(zip(prompts, results, strict=True)):
        for sample, text in enumerate(found):
            if len(prompts) > 1 or options.num_samples > 1:
                out.write(f"--- prompt {number + 1}, text {sample + 1}: {_ending(text)}\n")
            out.write(f"{shown(prompt.shown + text.text)}\n")
    out.flush()
    _say_cut(prompts, news)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What the decoder begins with, what the encoder reads (or None), and what of the prompt is part of the text that is written.

    `cut`: tokens of the source that are too many for the model, and not read.
    """

    tokens: list[int]
    inputs: dict | None
    shown: str
    cut: int = 0

    @classmethod
    def of(cls, text: str, tokenizer: Any, task: Any) -> "Prompt":
        """Makes a prompt of what the user typed: a source where the task is about pairs, otherwise the beginning of the text itself."""
        if hasattr(task, "prompt"):
            if not text.strip():
                raise UserError("--prompt: this model writes of a source text, and got none: give one or more.")
            made = task.prompt({"source": text})
            return cls(list(made["tokens"]), made["inputs"], "", extent(task, {"source": text})[1])
        ids = [*getattr(tokenizer, "start_ids", ()), *(int(i) for i in tokenizer.encode(text))]
        if not ids and tokenizer.eos_id is None:
            raise UserError("the prompt is empty and this tokenizer has no end of text that a new text could begin after: give a prompt")
        return cls(ids or [tokenizer.eos_id], None, text)


def _say_cut(prompts: list[Prompt], news: TextIO) -> None:
    if cut := [f"{prompt.cut:,} of prompt {number}" for number, prompt in enumerate(prompts, start=1) if prompt.cut]:
        news.write(f"warning: too long, and cut to what the model reads; tokens that it did not see: {', '.join(cut)}\n")


def _shown_fn(out: TextIO) -> Callable[[str], str]:
    from decoder_lab.decoding.text import escaped

    return escaped if out.isatty() else str


def _ending(text: Any) -> str:
    return f"ended by {text.reason}, log-probability {text.logprob:.2f}"


def _stream(generator, params, prompt: Prompt, options: Options, common: dict, write: Callable[[str], object], news: TextIO) -> None:
    from decoder_lab.decoding.batches import stack
    from decoder_lab.decoding.text import TextStream

    write(prompt.shown)
    stream = TextStream(generator.decode, prompt.tokens, write, options.stop)
    [[text]] = generator.generate(
        params,
        [prompt.tokens],
        inputs=stack([prompt.inputs]),
        on_tokens=lambda prompt, sample, tokens: stream.add(tokens),
        **common,
    )
    stream.close()
    write("\n")
    more = " (--num_tokens=N for more)" if text.reason == "length" else ""
    news.write(f"[{len(text.tokens)} tokens, {_ending(text)}{more}]\n")
