"""From prompts to texts: shapes, chunks and stop strings on the host around the loops of `sampling` and `beam`.

    generator = Generator(Decoder(step, init_cache), eos_id=0)
    generator.generate(params, [[5, 6, 7], [8]], num_tokens=20, settings=Sampling(top_k=5), seed=1)[1][0].tokens

A decoder that reads a source is given it as `inputs`: a dict of padded arrays, the batch on axis 0.

Shapes are rounded up to a few sizes and parameters are arguments: one generator serves a whole training run from a few compiled programs.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from decoder_lab.core.errors import UserError
from decoder_lab.decoding import attention_weights, beam, context, sampling, scoring
from decoder_lab.decoding.context import Decoder, bucket
from decoder_lab.decoding.settings import SAMPLING, Beam, Sampling
from decoder_lab.decoding.text import Decode, continuation, decode_fn, find_stop

LONGEST_CHUNK = 16  # tokens between two looks of the host, where it has to look


@dataclasses.dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes:
      tokens: the generated ids, without eos; with the ids that complete a stop string.
      logprob: log-probability of `tokens`, and of eos where it ended them, under the model itself: no filter or temperature enters.
      reason: why it ended: at "eos", at a "stop" string, or at the "length" asked for.
      text: the decoded text, ending before the stop string; None if the generator has no `decode`.
      score: what beam search ranks by; `logprob` otherwise.
    """

    tokens: list[int]
    logprob: float
    reason: Literal["eos", "stop", "length"]
    text: str | None
    score: float


@dataclasses.dataclass(frozen=True)
class _Page:
    """The prompts as arrays, and the sizes that the compiled programs are made for."""

    prompt_BP: np.ndarray
    first_B: np.ndarray  # column of each prompt's first token
    start_B: np.ndarray  # column of the first token that is in the context
    width: int
    num_slots: int
    num_columns: int

    @property
    def newest(self) -> int:
        return self.prompt_BP.shape[1] - 1


def _lay_out(prompts: Sequence[Sequence[int]], num_tokens: int, max_length: int | None) -> _Page:
    lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
    num_prompt, num_columns = bucket(int(lengths_B.max())), bucket(num_tokens)
    prompt_BP = np.zeros((len(prompts), num_prompt), np.int32)
    for row, prompt in zip(prompt_BP, prompts, strict=True):
        row[num_prompt - len(prompt) :] = prompt
    first_B = num_prompt - lengths_B
    if max_length is None:
        return _Page(prompt_BP, first_B, first_B, num_prompt - 1, num_prompt - 1 + num_columns, num_columns)
    kept_B = np.where(lengths_B > max_length, context.half(max_length), lengths_B).astype(np.int32)
    width = min(num_prompt, max_length) - 1
    return _Page(prompt_BP, first_B, num_prompt - kept_B, width, min(width + num_columns, max_length), num_columns)


def _chunks(stream: bool, whole: bool, num_tokens: int) -> Iterator[int]:
    """Yields how many tokens to write before the host looks: all at once if it has no reason to; 1, 2, 4, ... for a quick first word."""
    if whole:
        return iter([num_tokens])
    growing = [1, 2, 4, 8] if stream else []
    return itertools.chain(growing, itertools.repeat(LONGEST_CHUNK))


def _decoder_of(model: Any, longest: int | None, bidirectional_prefix: bool) -> Decoder:
    """Returns what decoding knows of a Linen model of the lab."""

    def step(params, tokens_BT, positions_BT, segments_BT, cache, **given):
        place = dict(positions_BT=positions_BT, segments_BT=segments_BT, cache=cache)
        return model.apply({"params": params}, tokens_BT, **place, **given)

    def encode(params, inputs):
        return model.apply({"params": params}, **{f"{name}_BS": array for name, array in inputs.items()}, method="encode")

    def attend(params, tokens_BT, positions_BT, segments_BT, cache, **given):
        place = dict(positions_BT=positions_BT, segments_BT=segments_BT, cache=cache)
        (logits_BTV, cache), sown = model.apply({"params": params}, tokens_BT, **place, **given, mutable=["attention"])
        return logits_BTV, cache, attention_weights.to_source(sown.get("attention", {}))

    reads = hasattr(model, "encode")
    source = dict(encode=encode, attend=attend, max_source=model.max_length) if reads else {}
    return Decoder(step, model.init_cache, longest, bidirectional_prefix=bidirectional_prefix, **source)


class Generator:
    """Generates with one decoder and any parameters.

    Args:
      decoder: what to step, see `context.Decoder`.
      eos_id: the token that ends a text; None if there is none.
      decode: ids to text, for stop strings and `Generation.text`.
    """

    def __init__(self, decoder: Decoder, *, eos_id: int | None = None, decode: Decode | None = None):
        self.decoder, self.eos_id, self.decode = decoder, eos_id, decode

    @classmethod
    def from_model(
        cls,
        model: Any,
        *,
        max_length: int | None = None,
        eos_id: int | None = None,
        decode: Decode | None = None,
        bidirectional_prefix: bool = False,
    ) -> "Generator":
        """Returns a generator for a Linen model of the lab; `params` of `generate` are its parameters. One with `encode` reads a source.

        Args:
          max_length: longest context, by default the model's `context_length`, or `max_length` where it has none: it has seen no longer
            texts, even where its positions go on. A recurrent model's `context_length` is None: its state has no limit.
          bidirectional_prefix: the prompt is read in both directions, as the task `prefix_language_modeling` trains it.
        """
        longest = getattr(model, "context_length", model.max_length) if max_length is None else max_length
        return cls(_decoder_of(model, longest, bidirectional_prefix), eos_id=eos_id, decode=decode)

    @classmethod
    def for_task(cls, model: Any, tokenizer: Any, task: Any = None, max_length: int | None = None) -> "Generator":
        """Returns a generator of texts for a model trained on `task` (None: on plain text). Errors: UserError for one that writes none."""
        if not hasattr(model, "init_cache"):
            raise UserError("this model writes no text: it predicts labels, tags or spans (--mode=predict shows them).")
        prefix = bool(getattr(task, "bidirectional_prefix", False))
        end_id = getattr(task, "end_id", tokenizer.eos_id)  # of a chat model, what ends a turn
        named = dict(eos_id=end_id, decode=decode_fn(tokenizer), bidirectional_prefix=prefix)
        return cls.from_model(model, max_length=max_length, **named)

    def generate(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        num_tokens: int,
        settings: Sampling | Beam = SAMPLING,
        *,
        seed: int = 0,
        num_samples: int = 1,
        inputs: Mapping[str, np.ndarray] | None = None,
        numbers: Sequence[int] | None = None,
        stop: Sequence[str] = (),
        on_tokens: Callable[[int, int, list[int]], object] | None = None,
    ) -> list[list[Generation]]:
        """Continues each prompt with at most `num_tokens` tokens; eos counts as one.

        Args:
          prompts: token ids, at least one each; they may differ in length.
          settings: a `Beam` returns its `num_samples` best texts, best first; a `Sampling` draws `num_samples` of them.
          inputs: the sources of a decoder that reads one, a dict of arrays with the prompts on axis 0, padded on axis 1 with 0.
          numbers: the number of each prompt, 0, 1, ... by default. A sampled text depends on (seed, number, sample) and the prompt only: a
            data set that is generated in batches gives each prompt its index here, and its texts do not depend on the batching.
          stop: texts end before the first of these strings (looked for in the decoded text, on the host, every 16 tokens).
          on_tokens: called as `on_tokens(index of the prompt, sample, new tokens)` while the texts grow.

        Returns:
          a list of `num_samples` results for each prompt (a beam search may find fewer texts than it was asked for).

        Raises:
          UserError: for settings or prompts that cannot be.
        """
        problems = settings.problems() + self._problems(prompts, inputs)
        problems += _search_problems(self, num_tokens, settings, num_samples, stop, on_tokens)
        if problems:
            raise UserError("\n".join(problems))
        memory = self._encode(params, inputs)
        if isinstance(settings, Beam):
            return self._beam(params, prompts, memory, num_tokens, settings, num_samples)
        return self._sample(params, prompts, memory, num_tokens, settings, seed, num_samples, numbers, tuple(stop), on_tokens)

    def score(
        self,
        params: Any,
        prompts: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        inputs: Mapping[str, np.ndarray] | None = None,
    ) -> list[float]:
        """Returns the log-probability of each target as the continuation of its prompt, by one call of the decoder without a search.

        Every token of a target counts: one that ends with eos is scored as a text that ends there, as `Generation.logprob` is.

        Raises:
          UserError: for texts that cannot be, such as prompt and target longer together than the longest context.
        """
        problems = self._problems(prompts, inputs)
        longest = max(len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True)) - 1
        if self.decoder.max_length is not None and longest > self.decoder.max_length:
            problems.append(f"a prompt and its target are {longest + 1} tokens: expected at most {self.decoder.max_length + 1}")
        if problems:
            raise UserError("\n".join(problems))
        page_BW, start_B, begin_B = scoring.lay_out(prompts, targets, self.decoder.max_length)
        memory = self._encode(params, inputs)
        logprob_BT = jax.device_get(scoring.token_logprobs(self.decoder, params, page_BW, start_B, begin_B, memory))
        return logprob_BT.sum(axis=1, dtype=np.float64).tolist()

    def _problems(self, prompts, inputs) -> list[str]:
        found = []
        if not len(prompts) or not all(len(prompt) for prompt in prompts):
            found.append("a prompt is empty: expected at least one token in each; begin with the eos token to begin a new text")
        if (self.decoder.encode is None) != (inputs is None):
            found.append("inputs: " + ("this decoder reads no source" if inputs is not None else "this decoder reads a source"))
        for name, array in (inputs or {}).items():
            if len(array) != len(prompts):
                found.append(f"inputs: {name} has {len(array)} rows, expected one for each of the {len(prompts)} prompts")
        return found

    def _encode(self, params, inputs) -> Any:
        """Returns the memory of the sources, which are encoded in one of few shapes."""
        if inputs is None:
            return None
        return context.encode(self.decoder, params, {name: self._padded(np.asarray(array)) for name, array in inputs.items()})

    def _padded(self, array: np.ndarray) -> np.ndarray:
        if array.ndim < 2:
            return array
        size, most = array.shape[1], self.decoder.max_source
        wanted = bucket(size) if most is None else max(size, min(bucket(size), most))
        return np.pad(array, [(0, 0), (0, wanted - size)] + [(0, 0)] * (array.ndim - 2))

    def _begin(self, params, page: _Page, memory, copies: int) -> context.Rows:
        sizes = dict(width=page.width, num_slots=page.num_slots, copies=copies, num_columns=page.num_columns)
        return context.begin(self.decoder, params, page.prompt_BP, page.start_B, memory, **sizes)

    def _run(self, params, page: _Page, state, advance, chunks, num_tokens: int, look=None):
        """Calls `advance(state, stop)` until `num_tokens` are written or all rows are done, rolling contexts and looking in between."""
        end = page.newest + num_tokens
        edge = page.newest + page.num_slots - page.width  # the column whose token would find no free slot
        target = page.newest
        while True:
            target = min(target + next(chunks), end)
            while True:
                state = advance(state, np.int32(min(target, edge)))
                column, done_R, start_R = jax.device_get((state.rows.newest, state.done_R, state.rows.start_R))
                if done_R.all() or column >= target:
                    break
                width = self._roll_width(column, done_R, start_R)
                num_prompt = page.newest + 1 if self.decoder.bidirectional_prefix else 1
                sizes = dict(width=width, num_slots=page.num_slots, num_prompt=num_prompt)
                state = state._replace(rows=context.roll(self.decoder, params, state.rows, state.done_R, **sizes))
                edge = column + page.num_slots - width
            if look is not None:
                state, done_R = look(state)
            if column >= end or done_R.all():
                return state

    def _roll_width(self, column, done_R, start_R) -> int:
        """Returns for how many tokens to prefill: the longest context once the full are cut, without its newest; one of eight sizes."""
        most = self.decoder.max_length
        length_R = column + 1 - start_R[~done_R]
        longest = np.where(length_R > most, context.half(most), length_R).max()
        unit = -(-most // 8)
        return min(int(-(-longest // unit)) * unit, most) - 1

    def _sample(self, params, prompts, memory, num_tokens, settings, seed, num_samples, numbers, stop, on_tokens):
        page = _lay_out(prompts, num_tokens, self.decoder.max_length)
        prompt_R = np.repeat(np.arange(len(prompts)), num_samples)
        sample_R = np.tile(np.arange(num_samples), len(prompts))
        number_R = prompt_R if numbers is None else np.asarray(numbers)[prompt_R]
        keys_R = sampling.row_keys(seed, number_R, sample_R)
        watch = _Watch(self, prompts, page.newest + 1, prompt_R, sample_R, stop, on_tokens)

        def advance(state, until):
            return sampling.advance(self.decoder, settings, self.eos_id, params, state, page.first_B[prompt_R], keys_R, until)

        looks = bool(stop) or on_tokens is not None
        chunks = _chunks(on_tokens is not None, not looks, num_tokens)
        state = sampling.begin(self._begin(params, page, memory, num_samples), page.num_columns)
        state = self._run(params, page, state, advance, chunks, num_tokens, watch.look if looks else None)
        flat = watch.results(state)
        return [flat[i : i + num_samples] for i in range(0, len(flat), num_samples)]

    def _beam(self, params, prompts, memory, num_tokens, settings: Beam, num_return):
        page = _lay_out(prompts, num_tokens, self.decoder.max_length)

        def advance(state, until):
            return beam.advance(self.decoder, settings, self.eos_id, num_return, params, state, np.int32(num_tokens), until)

        state = beam.begin(self._begin(params, page, memory, settings.size), settings, page.num_columns)
        state = self._run(params, page, state, advance, iter([num_tokens]), num_tokens)
        found = beam.hypotheses(state, settings, num_tokens, num_return)
        return [[self._hypothesis(prompt, *x) for x in texts] for prompt, texts in zip(prompts, found, strict=True)]

    def _hypothesis(self, prompt, score, logprob, tokens, ended) -> Generation:
        text = continuation(self.decode, prompt, tokens) if self.decode else None
        return Generation(tokens, logprob, "eos" if ended else "length", text, score)


def _search_problems(generator: Generator, num_tokens, settings, num_samples, stop, on_tokens) -> list[str]:
    found = []
    if num_tokens < 1 or num_samples < 1:
        found.append(f"num_tokens={num_tokens}, num_samples={num_samples}: expected at least 1")
    if isinstance(settings, Beam):
        if num_samples > settings.size:
            found.append(f"num_samples={num_samples}: a beam of {settings.size} returns at most {settings.size} texts")
        if stop or on_tokens:
            found.append("beam search knows its texts only at the end: it takes no stop strings and does not stream")
        if settings.coverage_penalty and generator.decoder.attend is None:
            found.append(f"coverage_penalty={settings.coverage_penalty}: this decoder has no attention to a source; leave it at 0")
    if stop and generator.decode is None:
        found.append("stop strings need a generator with `decode`")
    if not all(stop):
        found.append("a stop string is empty")
    return found


class _Watch:
    """What the host sees of growing rows: new tokens for the caller, stop strings, and the results."""

    def __init__(self, generator: Generator, prompts, num_prompt: int, prompt_R, sample_R, stop: tuple[str, ...], on_tokens):
        self._decode, self._eos_id = generator.decode, generator.eos_id
        self._prompt_of = [prompts[i] for i in prompt_R]
        self._num_prompt, self._names, self._stop, self._on_tokens = num_prompt, list(zip(prompt_R, sample_R, strict=True)), stop, on_tokens
        self._seen = [0] * len(prompt_R)  # tokens of each row that have been looked at
        self._cut: dict[int, tuple[int, str]] = {}  # row -> (tokens, text) where a stop string was found

    def _tokens(self, page_RW, length_R, row: int) -> tuple[list[int], bool]:
        """Returns the row's tokens without eos, and whether it ended with one."""
        tokens = page_RW[row, self._num_prompt : self._num_prompt + length_R[row]].tolist()
        ended = bool(tokens) and tokens[-1] == self._eos_id
        return (tokens[:-1], True) if ended else (tokens, False)

    def look(self, state: sampling.State):
        """Returns the state with the rows done that hold a stop string by now, and which rows are done."""
        page_RW, length_R, done_R = jax.device_get((state.rows.page_RW, state.length_R, state.done_R))
        done_R = done_R.copy()
        for row, (prompt, sample) in enumerate(self._names):
            tokens, _ = self._tokens(page_RW, length_R, row)
            seen, self._seen[row] = self._seen[row], len(tokens)
            if row in self._cut or len(tokens) == seen:
                continue
            if self._stop:
                self._find_stop(row, tokens, seen)
                done_R[row] |= row in self._cut
            if self._on_tokens is not None:
                self._on_tokens(int(prompt), int(sample), tokens[seen : self._cut[row][0] if row in self._cut else None])
        return state._replace(done_R=jax.numpy.asarray(done_R)), done_R

    def _find_stop(self, row: int, tokens: list[int], seen: int) -> None:
        if find_stop(continuation(self._decode, self._prompt_of[row], tokens), self._stop) < 0:
            return
        for size in range(seen + 1, len(tokens) + 1):  # the fewest tokens that hold it, so that nothing depends on when the host looked
            text = continuation(self._decode, self._prompt_of[row], tokens[:size])
            at = find_stop(text, self._stop)
            if at >= 0:
                self._cut[row] = size, text[:at]
                return

    def results(self, state: sampling.State) -> list[Generation]:
        page_RW, length_R, logprob_RN = jax.device_get((state.rows.page_RW, state.length_R, state.logprob_RN))
        results = []
        for row, prompt in enumerate(self._prompt_of):
            tokens, ended = self._tokens(page_RW, length_R, row)
            if row in self._cut:
                size, text = self._cut[row]
                tokens, num_scored, reason = tokens[:size], size, "stop"
            else:
                text = continuation(self._decode, prompt, tokens) if self._decode else None
                num_scored, reason = int(length_R[row]), "eos" if ended else "length"
            logprob = float(logprob_RN[row, :num_scored].sum(dtype=np.float64))
            results.append(Generation(tokens, logprob, reason, text, logprob))
        return results
