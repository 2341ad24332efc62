import numpy as np
import pytest

from decoder_lab.data import rows
from decoder_lab.data.cache import TokenCache
from decoder_lab.data.packing import documents, split


def part(first, num_tokens, length=4):
    tokens = TokenCache.in_memory([np.arange(first, first + num_tokens)], num_bytes=num_tokens)
    return rows.PackedRows(split.Packing(tokens, length), tokens)


@pytest.mark.parametrize("weights", [(1, 1), (0.7, 0.3), (5, 3, 1), (0.001, 0.999), (1e-7, 1), (0.2, 0.5, 0.05, 0.25)])
def test_weights_hold_at_every_prefix_over_epochs(weights):
    parts = {f"p{i}": part(10_000 * i, 50 + 100 * i) for i in range(len(weights))}
    mixed = rows.MixedRows(parts, {f"p{i}": w for i, w in enumerate(weights)})
    size = mixed.rows(0, 0)
    owners = np.concatenate([mixed.take(np.arange(size), e, 0)["tokens"][:, 0] // 10_000 for e in range(40)])
    counts = np.cumsum(owners[:, None] == np.arange(len(weights)), axis=0)
    wanted = np.arange(1, len(owners) + 1)[:, None] * np.asarray(weights) / sum(weights)
    assert np.abs(counts - wanted).max() <= 0.5 + len(weights) / 2 + len(owners) / rows.PERIOD


def test_each_part_goes_through_its_own_epochs():
    """Every row of a part is taken once before any is taken again, though the mixture's epochs end elsewhere."""
    parts = dict(a=part(0, 41), b=part(1000, 401))
    mixed = rows.MixedRows(parts, dict(a=0.5, b=0.5))
    stream = np.concatenate([mixed.take(np.arange(mixed.rows(e, 9)), e, 9)["tokens"] for e in range(3)])
    of_a = stream[stream[:, 0] < 1000]
    size = parts["a"].rows(0, 0)
    for start in range(0, len(of_a) - size, size):
        stretch = of_a[start : start + size]
        assert len(set(stretch.ravel().tolist())) == stretch.size


def test_mixture_is_a_pure_function_of_the_row():
    parts = dict(a=part(0, 90), b=part(1000, 300))
    mixed = rows.MixedRows(parts, dict(a=2, b=1))
    whole = mixed.take(np.arange(mixed.rows(3, 4)), 3, 4)
    some = rows.MixedRows(parts, dict(a=2, b=1)).take(np.array([40, 2, 17]), 3, 4)
    assert all(np.array_equal(whole[k][[40, 2, 17]], some[k]) for k in some)


def test_evaluation_takes_every_row_of_every_part_once():
    mixed = rows.MixedRows(dict(a=part(0, 9), b=part(100, 18)), dict(a=9, b=1))
    batch = mixed.take(np.arange(mixed.rows(None, 0)), None, 0)
    assert batch["labels"][batch["weights"] > 0].tolist() == [*range(1, 9), *range(101, 118)]
    assert (mixed.num_bytes, mixed.num_tokens, mixed.num_documents, mixed.num_targets) == (27, 27, 2, 8 + 17)


def test_mixtures_of_mixtures_and_of_packed_documents():
    tokens = TokenCache.in_memory([[1, 2, 3], [4, 5]], num_bytes=5)
    packed = rows.PackedRows(documents.Packing(tokens, 4), tokens)
    inner = rows.MixedRows(dict(a=packed), dict(a=1))
    outer = rows.MixedRows(dict(x=inner, y=packed), dict(x=1, y=1))
    assert set(outer.take(np.arange(2), 5, 0)) == {"tokens", "labels", "weights", "segments", "positions"}
    assert outer.num_targets == 2 * 3


def test_share_of_rows_without_a_target():
    """KNOWN_BUGS 8: a loader says how many of its rows teach nothing."""

    class Half(split.Packing):
        def take(self, rows_B, epoch, seed):
            batch = super().take(rows_B, epoch, seed)
            batch["weights"][np.asarray(rows_B) % 2 == 0] = 0
            return batch

    tokens = TokenCache.in_memory([np.arange(81)])
    assert rows.PackedRows(Half(tokens, 4), tokens).share_without_target() == 0.5
    assert part(0, 50).share_without_target() == 0.0
