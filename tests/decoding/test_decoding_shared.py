"""A data set written by several processes is the one that one process writes, text for text."""

import jax.numpy as jnp
import pytest

from decoder_lab.decoding import batches
from decoder_lab.decoding.generate import Generation

PROMPTS = [{"tokens": [n], "inputs": None} for n in range(7)]


@pytest.mark.parametrize("count", [2, 3, 9])
def test_every_process_writes_its_part_and_all_have_all(monkeypatch, count):
    written = []

    def write(generator, params, prompts, settings, numbers):
        written.append([p["tokens"][0] for p in prompts])
        return [Generation([p["tokens"][0], n], -0.5 * n, "eos", f"text {n}", 1.0) for p, n in zip(prompts, numbers, strict=True)]

    monkeypatch.setattr(batches, "generate_all", write)
    parts = {}

    def run(index, gather):
        monkeypatch.setattr(batches.processes, "count", lambda: count)
        monkeypatch.setattr(batches.processes, "index", lambda: index)
        monkeypatch.setattr(batches.processes, "gather", gather)
        return batches.generate_shared(None, {"w": jnp.ones(2)}, PROMPTS, numbers=range(10, 17))

    def remember(index):
        def gather(name, value):
            parts[index] = value
            return [[]] * count  # what the others write is not there yet

        return gather

    for index in range(count):
        with pytest.raises(ValueError):
            run(index, remember(index))
    assert sorted(n for part in written for n in part) == list(range(7))
    expected = [Generation([i, 10 + i], -0.5 * (10 + i), "eos", f"text {10 + i}", 1.0) for i in range(7)]
    assert all(run(index, lambda name, value: [parts[i] for i in range(count)]) == expected for index in range(count))
