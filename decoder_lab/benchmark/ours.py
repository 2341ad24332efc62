"""One side of the measurement: decoder_lab. Reads one job a line (JSON) from standard input, answers with one line."""

import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np

from decoder_lab.benchmark import protocol
from decoder_lab.benchmark.shapes import SHAPES
from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core import config as config_lib
from decoder_lab.core import lookup, runtime, tree
from decoder_lab.data import build, feed
from decoder_lab.decoding.generate import Generator
from decoder_lab.decoding.settings import Beam, Sampling
from decoder_lab.layers import transformer
from decoder_lab.optim import optimizer as optim
from decoder_lab.training import experiment as experiments
from decoder_lab.training import step as steps
from decoder_lab.training.adaptation import Adaptation


def training(size: str, dtype: str) -> Callable[[int], float]:
    """Returns a function that takes n optimiser steps on random tokens and returns their seconds."""
    return _trained(size, dtype, None)


def adapting(size: str, dtype: str, method: str) -> Callable[[int], float]:
    """The same where `method` is "full"; with "lora" only rank 8 beside queries and values is trained."""
    return _trained(size, dtype, None if method == "full" else dict(name=method, kw=dict(rank=8)))


def _trained(size: str, dtype: str, adapter: dict | None) -> Callable[[int], float]:
    shape = SHAPES[size]
    config = _config(size, dtype)
    model = experiments.make_model(config, shape.vocab_size)
    task = lookup.make("task", config.task, tokenizer=None)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, shape.vocab_size, size=(shape.batch_size, shape.length + 1), dtype=np.int32)
    batch = {"tokens": tokens[:, :-1], "labels": tokens[:, 1:], "weights": np.ones((shape.batch_size, shape.length), np.float32)}
    batch = jax.device_put(batch)

    adaptation = Adaptation(adapter and lookup.make("adapter", adapter), model, task, jax.random.key(1))
    params = transformer.init_params(model, jax.random.key(0), batch["tokens"][:1, :8])
    params, frozen = adaptation.split(adaptation.joined(params))
    optimizer, lr_fn = optim.make(config, 1000, int, params)
    metrics_fn = lambda params, batch, key: task.metrics(adaptation.model, params, batch, rng=key)  # noqa: E731
    step = steps.make_train_step(metrics_fn, optimizer, lr_fn, accumulate=1, ema=0.0, on_nonfinite="stop")
    step = jax.jit(step, donate_argnums=0)
    state = [tree.unshared(steps.init_state(params, optimizer, 0, False).replace(frozen=frozen))]
    del params, frozen  # or they would stay beside what the first step makes of them

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            state[0], metrics = step(state[0], batch)
        jax.block_until_ready((state[0], metrics))
        return time.perf_counter() - began

    return run


def generation(size: str, dtype: str, batch_size: int, beam: int, new_tokens: int = 128) -> Callable[[int], float]:
    """Returns a function that writes `new_tokens` tokens after prompts of 32, n times over, and returns the seconds."""
    shape = SHAPES[size]
    model = experiments.make_model(_config(size, dtype), shape.vocab_size)
    params = transformer.init_params(model, jax.random.key(0), np.zeros((1, 8), np.int32))
    prompts = np.random.default_rng(0).integers(0, shape.vocab_size, size=(batch_size, 32)).tolist()
    generator = Generator.from_model(model)
    settings = Beam(size=beam) if beam > 1 else Sampling(temperature=0.0)

    def run(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            found = generator.generate(params, prompts, new_tokens, settings)
        assert all(len(f[0].tokens) == new_tokens for f in found)
        return time.perf_counter() - began

    return run


class Feeding:
    """Makes n batches of the interpreter's library in bytes, as `packing` has them; their seconds. A run is `size` tokens."""

    def __init__(self, size: str, packing: str):
        config = _config(size, "float32", data=dict(packing=dict(name=packing, kw={})))
        tokenizer = lookup.make("tokenizer", config.data.tokenizer)
        task = lookup.make("task", config.task, tokenizer=tokenizer)
        rows = build.rows_for(config.data, task, "train", config.sequence_length)
        self._feed, self._step = feed.Feed(rows, config.batch_size, seed=0), 0
        self.size = config.batch_size * config.sequence_length

    def __call__(self, count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            self._feed.batch(self._step)
            self._step += 1
        return time.perf_counter() - began


class Keeping:
    """Saves or restores the state of a run n times, in a folder of its own; the seconds of one until it is durable, or back in memory.

    What is measured (`what`): "save", all of it; "blocked", how long a step would wait for it; "restore". A run is `size` bytes.
    """

    def __init__(self, size: str, what: str):
        shape, config = SHAPES[size], _config(size, "float32")
        params = transformer.init_params(experiments.make_model(config, shape.vocab_size), jax.random.key(0), np.zeros((1, 8), np.int32))
        optimizer, _ = optim.make(config, 1000, int, params)
        self._state = tree.unshared(steps.init_state(params, optimizer, 0, False))
        self.size = tree.num_bytes(self._state.params) + tree.num_bytes(self._state.opt_state)
        self._folder = tempfile.TemporaryDirectory(prefix="decoder_lab-benchmark-")
        self._saver, self._what, self._step = Saver(self._folder.name, report=lambda line: None), what, 0
        self._saver.save(0, self._state, meta={}, wait=True)

    def __call__(self, count: int) -> float:
        seconds = 0.0
        for _ in range(count):
            began = time.perf_counter()
            if self._what == "restore":
                jax.block_until_ready(self._saver.restore(self._state)[0])
                seconds += time.perf_counter() - began
                continue
            self._step += 1
            self._saver.save(self._step, self._state, meta={})
            held = time.perf_counter() - began
            self._saver.wait()
            seconds += held if self._what == "blocked" else time.perf_counter() - began
        return seconds


def device_bytes() -> int:
    """Returns the most memory that was in use on the device so far; 0 where that is not known, as on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)


def _config(size: str, dtype: str, **more):
    shape = SHAPES[size]
    kw = dict(num_layers=shape.num_layers, num_heads=shape.num_heads, width=shape.width)
    if shape.large:
        kw |= dict(scan_layers=True, remat="dots_no_batch")
        more["task"] = dict(name="language_modeling", kw=dict(loss_chunk=256))
    delta = dict(
        model=dict(name="decoder_only", kw=kw),
        schedule=dict(name="constant", kw={}),
        sequence_length=shape.max_length,
        batch_size=shape.batch_size,
        dtype=dtype,
        lr=1e-4,
        **more,
    )
    return config_lib.resolve(delta)


if __name__ == "__main__":
    runtime.prefer_huge_pages()
    runtime.compilation_cache()
    device_kind = jax.devices()[0].device_kind
    about = {"name": f"jax {jax.__version__} on {device_kind}", "device_kind": device_kind}
    kinds = {"training": training, "adapting": adapting, "generation": generation, "input": Feeding, "checkpoint": Keeping}
    protocol.serve(kinds, lambda: about, device_bytes)
