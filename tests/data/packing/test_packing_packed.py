"""Examples that share rows: each of them whole, once an epoch, apart from the others, in one shape."""

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data import examples as example_lib
from decoder_lab.data import feed, rows
from decoder_lab.data.packing import packed

LENGTH = 24


def found(count=60, longest=20, seed=0, **extra):
    rng = np.random.default_rng(seed)
    for i in range(count):
        size = rng.integers(1, longest + 1)
        weights = (np.arange(size) >= size // 2).astype(np.float32)
        yield {"tokens": np.full(size, i + 1), "segments": np.ones(size, np.int32), "weights": weights, **extra}


def make(**kw):
    examples = example_lib.in_memory(found(**kw))
    return rows.ExampleRows(packed.Packing(examples, LENGTH), examples)


def test_every_example_is_whole_once_an_epoch_and_alone_in_its_segment():
    """KNOWN_BUGS 4: positions restart, segments tell documents apart, weights stay with their tokens."""
    batches = feed.ExampleFeed(make(), 5, seed=1, multiple=2)
    wanted = [example["tokens"].tolist() for example in found()]
    weights = [example["weights"].tolist() for example in found()]
    orders = []
    for epoch in range(2):
        size, seen = int(batches.steps_per_epoch), {}
        orders.append([])
        for step in range(epoch * size, (epoch + 1) * size):
            batch = batches.batch(step)
            assert {n: f"{x.dtype}{list(x.shape)}" for n, x in batch.items()} == batches.shapes[0]
            orders[-1] += batch["index"].tolist()
            for row in range(len(batch["index"])):
                for segment in range(1, batch["segments"][row].max() + 1):
                    at = np.flatnonzero(batch["segments"][row] == segment)
                    assert (np.diff(at) == 1).all() and batch["positions"][row][at].tolist() == list(range(len(at)))
                    i = int(batch["tokens"][row][at[0]]) - 1
                    assert i not in seen and batch["tokens"][row][at].tolist() == wanted[i]
                    assert batch["weights"][row][at].tolist() == weights[i]
                    seen[i] = True
                    assert segment > 1 or batch["index"][row] == i
                assert (batch["index"][row] >= 0) == bool(batch["segments"][row].any())
                assert not batch["tokens"][row][batch["segments"][row] == 0].any()
        assert len(seen) == 60
    assert orders[0] != orders[1]


def test_rows_are_well_filled_and_shared_by_processes():
    plan = make().plan(4, 1)
    assert plan.num_rows <= 1.2 * sum(len(e["tokens"]) for e in found()) / LENGTH + 1
    whole, parts = feed.ExampleFeed(make(), 4, 0, multiple=2), [feed.ExampleFeed(make(), 4, 0, p, 2, multiple=2) for p in range(2)]
    for step in range(12):
        halves = [part.batch(step) for part in parts]
        assert all(np.array_equal(np.concatenate([h[n] for h in halves]), x) for n, x in whole.batch(step).items())


def test_evaluation_has_every_example_and_a_limit_some():
    batches = list(feed.evaluation_batches(make(), 4))
    assert sum(int(b["segments"].max(axis=1).sum()) for b in batches) == 60
    assert sum(int(b["segments"].max(axis=1).sum()) for b in feed.evaluation_batches(make(), 4, limit=7)) == 7


def test_what_cannot_share_a_row_is_refused():
    for examples, message in (
        (found(label=np.int32(1)), "label of this task's examples are not as long as its segments"),
        ((({"tokens": np.ones(3)}) for _ in range(2)), "no segments"),
        (found(longest=LENGTH + 9), "the longest example has"),
    ):
        with pytest.raises(UserError, match=message):
            packed.Packing(example_lib.in_memory(examples), LENGTH)
