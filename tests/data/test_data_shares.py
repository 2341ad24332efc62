"""However many processes there are: together they read one global batch, and each reads only its rows."""

import numpy as np
import pytest

from decoder_lab.data import cache, feed
from decoder_lab.data.packing.buckets import Packing


class Rows:
    """Rows that remember which were read."""

    def __init__(self):
        self.read = []

    def rows(self, epoch, seed):
        return 103

    def take(self, rows_B, epoch, seed):
        self.read += rows_B.tolist()
        return {"tokens": np.stack([rows_B * 7 + epoch, rows_B + seed], axis=1)}


@pytest.mark.parametrize("count", [2, 4, 64])
def test_rows_of_a_batch_are_read_once_over_all_processes(count):
    whole = feed.Feed(Rows(), 64, 3)
    parts = [feed.Feed(Rows(), 64, 3, index, count) for index in range(count)]
    for step in (0, 1, 2, 50):
        expected = whole.batch(step)["tokens"]
        for part in parts:
            part.rows.read.clear()
        found = [part.batch(step)["tokens"] for part in parts]
        assert all(len(part.rows.read) == 64 // count for part in parts)
        np.testing.assert_array_equal(np.concatenate(found), expected)
        np.testing.assert_array_equal(parts[-1].whole(step)["tokens"], expected)


class Examples:
    """Examples of many lengths, as `data.examples.Examples` gives them."""

    ragged, fixed, fixed_width, weights = ("tokens",), {}, 0, None

    def __init__(self, lengths):
        self.longest_E = np.asarray(lengths)
        self.sizes, self.ends = np.array([len(lengths)]), np.array([len(lengths)])
        self.read = []

    def __len__(self):
        return len(self.longest_E)

    def lengths(self, name):
        return self.longest_E

    def take(self, e_B, widths):
        self.read += e_B.tolist()
        return {"index": e_B, "tokens": np.where(e_B >= 0, e_B, 0)[:, None] * np.ones(widths["tokens"], int)}


class ExampleRows:
    def __init__(self, lengths):
        self.examples = Examples(lengths)

    def plan(self, batch_size, multiple):
        return Packing(self.examples, 32, num_buckets=3).plan(batch_size, multiple)


@pytest.mark.parametrize("count", [2, 8])
def test_examples_of_a_batch_are_read_once_over_all_processes(count):
    lengths = np.random.default_rng(0).integers(1, 33, 100)
    whole = feed.ExampleFeed(ExampleRows(lengths), 16, 3, multiple=8)
    parts = [feed.ExampleFeed(ExampleRows(lengths), 16, 3, index, count, multiple=8) for index in range(count)]
    for step in range(whole.plan.num_batches + 3):  # into the second epoch
        expected = whole.batch(step)
        for part in parts:
            part.rows.examples.read.clear()
        found = [part.batch(step) for part in parts]
        for name in expected:
            np.testing.assert_array_equal(np.concatenate([f[name] for f in found]), expected[name])
            np.testing.assert_array_equal(parts[0].whole(step)[name], expected[name])
        assert len(parts[1].rows.examples.read) == len(expected["index"]) // count


def test_two_that_build_one_cache_entry_without_locks_both_get_it(tmp_path, monkeypatch):
    """Network file systems may lack locks: who is complete first is believed, and nobody's work is swept away."""

    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setenv("DECODER_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(cache.fcntl, "flock", refuse)

    def write(text):
        def inner(path):
            if text == "slow":  # while this one builds, another one begins and ends
                assert cache.entry("kind", dict(a=1), write("fast"))[1] == {"by": "fast"}
            (path / "file").write_text(text)
            return {"by": text}

        return inner

    path, facts = cache.entry("kind", dict(a=1), write("slow"))
    assert facts == {"by": "fast"} and (path / "file").read_text() == "fast"
    assert [p.name for p in tmp_path.iterdir() if ".tmp-" in p.name] == []
