"""Generation at the terminal: prompts in, texts out, written while they grow. JAX is imported only when a text is really asked for."""

import dataclasses
import sys
from typing import Any, TextIO

from decoder_lab.core.errors import UserError
from decoder_lab.decoding.settings import Beam, Sampling

SAMPLING_ONLY = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram")


@dataclasses.dataclass(frozen=True)
class Options:
    """What `--mode=generate` takes; each field is a flag of the same name.

    Attributes:
      prompt: texts to continue; an empty one begins a new text, where the tokenizer marks where texts end.
      num_tokens: most tokens to write for each.
      temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram: see `decoding.settings.Sampling`; temperature 0 is greedy.
      beam_size: 1 samples, more searches for the most probable texts; `num_samples` of them are written, best first.
      length_penalty: of beam search, see `decoding.settings.Beam`.
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
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    seed: int = 0
    checkpoint: str = "best"
    context_length: int | None = None
    stream: bool = True

    def settings(self) -> Sampling | Beam:
        if self.beam_size > 1:
            return Beam(self.beam_size, self.length_penalty)
        return Sampling(**{name: getattr(self, name) for name in SAMPLING_ONLY})

    def problems(self) -> list[str]:
        """Returns one line for each thing that is wrong, of all fields at once."""
        found = Sampling(**{name: getattr(self, name) for name in SAMPLING_ONLY}).problems()
        for name in ("num_tokens", "num_samples", "beam_size"):
            if getattr(self, name) < 1:
                found.append(f"{name}={getattr(self, name)}: expected at least 1")
        if not self.prompt:
            found.append("prompt: expected at least one")
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
        if self.beam_size == 1:
            return ["length_penalty: it belongs to beam search; also give beam_size > 1"] if self.length_penalty else []
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        sampling = [name for name in SAMPLING_ONLY if getattr(self, name) != defaults[name]]
        found = []
        if sampling:
            found.append(f"beam_size={self.beam_size} searches and does not sample: leave out {', '.join(sampling)}, or the beam")
        if self.stop:
            found.append(f"beam_size={self.beam_size}: beam search takes no stop strings")
        if self.num_samples > self.beam_size:
            found.append(f"num_samples={self.num_samples}: a beam of {self.beam_size} has at most {self.beam_size} texts")
        return found


def run(model: Any, params: Any, tokenizer: Any, options: Options, out: TextIO = sys.stdout) -> None:
    """Writes each prompt and its continuations to `out`.

    One text is written as it grows; several under a line each, which names the prompt, the text, why it ended and its log-probability.

    Args:
      model: a Linen model of the lab, unbound; `params` are its parameters.
      tokenizer: loaded; the vocabulary that the model was trained with.

    Raises:
      UserError: with all problems of the options, or for an empty prompt where the tokenizer has no end of text to begin after.
    """
    if problems := options.problems():
        raise UserError("\n".join(problems))
    from decoder_lab.decoding.generate import Generator

    prompts = [_encode(tokenizer, text) for text in options.prompt]
    generator = Generator.from_model(model, max_length=options.context_length, eos_id=tokenizer.eos_id, decode=_decode_fn(tokenizer))
    single = len(prompts) == options.num_samples == 1
    settings = options.settings()
    common = dict(num_tokens=options.num_tokens, settings=settings, seed=options.seed, num_samples=options.num_samples, stop=options.stop)
    if single and options.stream and isinstance(settings, Sampling):
        _stream(generator, params, prompts[0], options, common, out)
        return
    for number, texts in enumerate(generator.generate(params, prompts, **common)):
        for sample, text in enumerate(texts):
            if not single:
                out.write(f"--- prompt {number + 1}, text {sample + 1}: ended by {text.reason}, log-probability {text.logprob:.2f}\n")
            out.write(f"{options.prompt[number]}{text.text}\n")
    out.flush()


def _stream(generator, params, prompt_ids, options: Options, common: dict, out: TextIO) -> None:
    from decoder_lab.decoding.text import TextStream

    def write(piece: str) -> None:
        out.write(piece)
        out.flush()

    write(options.prompt[0])
    stream = TextStream(generator.decode, prompt_ids, write, options.stop)
    generator.generate(params, [prompt_ids], on_tokens=lambda prompt, sample, tokens: stream.add(tokens), **common)
    stream.close()
    write("\n")


def _encode(tokenizer, text: str) -> list[int]:
    ids = [int(i) for i in tokenizer.encode(text)]
    if not ids and tokenizer.eos_id is None:
        raise UserError("the prompt is empty and this tokenizer has no end of text that a new text could begin after: give a prompt")
    return ids or [tokenizer.eos_id]


def _decode_fn(tokenizer):
    """Returns ids -> text without the end of text, which begins the context of an empty prompt and is no part of any text."""

    def decode(ids):
        return tokenizer.decode([i for i in ids if i != tokenizer.eos_id])

    return decode
