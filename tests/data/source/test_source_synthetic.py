import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.source import synthetic

SPLITS = ("train", "validation", "test")


def items(split, count=300, **kw):
    source = synthetic.Source(split=split, **kw)
    return [source[i] for i in range(min(count, len(source)))]


@pytest.mark.parametrize("kind, operation", [("reverse", lambda n: n[::-1]), ("copy", lambda n: n), ("sort", sorted)])
def test_sequences(kind, operation):
    symbols, short, long, *_ = synthetic.SIZES[kind]
    for split, longest in zip(SPLITS, (short, long, long), strict=True):
        lengths = set()
        for item in items(split, kind=kind):
            numbers = [int(x) for x in item["source"].split(" ")]
            assert item["target"] == " ".join(map(str, operation(numbers))) and set(numbers) <= set(range(symbols))
            lengths.add(len(numbers))
        assert min(lengths) <= 2 and max(lengths) == longest  # the ten of one digit may all be in training


def test_published_sizes():
    assert [len(synthetic.Source(split=s)) for s in SPLITS] == [50_000, 1000, 1000]
    assert len(synthetic.Source(split="train", kind="copy")) == 20_000


def test_addition():
    found = items("train", kind="addition", max_length=2)
    assert all(sum(map(int, item["source"].split("+"))) == int(item["target"]) for item in found)
    assert max(int(x) for item in found for x in item["source"].split("+")) in range(90, 100)


@pytest.mark.parametrize("kind", ["reverse", "copy", "sort", "addition"])
def test_splits_share_no_item_and_items_are_functions_of_their_number(kind):
    kw = dict(kind=kind, max_length=2, max_length_evaluation=2, num_train=500, num_evaluation=100)
    found = [{item["source"] for item in items(split, 500, **kw)} for split in SPLITS]
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]
    source = synthetic.Source(split="train", **kw)
    assert [source[i] for i in (7, 3)] == [items("train", **kw)[i] for i in (7, 3)]
    assert source[3] != synthetic.Source(split="train", seed=1, **kw)[3]
    with pytest.raises(IndexError):
        source[500]


@pytest.mark.parametrize("operation", ["+", "-", "*", "/"])
def test_modular_splits_are_all_pairs(operation):
    kw = dict(kind="modular", symbols=13, operation=operation, train_share=0.3)
    found = [items(split, 10**6, **kw) for split in ("train", "validation")]
    pairs = [tuple(map(int, item["source"].split(f" {operation} "))) for part in found for item in part]
    assert sorted(pairs) == [(a, b) for a in range(13) for b in range(operation == "/", 13)]
    assert len(found[0]) == round(0.3 * len(pairs))
    for (a, b), item in zip(pairs, [*found[0], *found[1]], strict=True):
        c = int(item["label"])
        assert item["target"] == item["label"] and item["text"] == f"{a} {operation} {b} =" and 0 <= c < 13
        assert (c * b - a if operation == "/" else c - {"+": a + b, "-": a - b, "*": a * b}[operation]) % 13 == 0
    assert {i["source"] for i in found[0]} != {i["source"] for i in items("train", 10**6, seed=1, **kw)}


def test_errors_and_fingerprints():
    with pytest.raises(UserError, match="train and validation"):
        synthetic.Source(split="test", kind="modular")
    with pytest.raises(UserError, match="symbols=12 is not a prime"):
        synthetic.Source(split="train", kind="modular", symbols=12, operation="/")
    with pytest.raises(UserError, match="leave none for"):
        for split in SPLITS:
            synthetic.Source(split=split, kind="copy", symbols=1, max_length=1, max_length_evaluation=1)[0]
    changes = [dict(), dict(seed=1), dict(kind="copy"), dict(symbols=9), dict(max_length=9), dict(num_train=3)]
    assert len({synthetic.Source(split="train", **c).fingerprint() for c in changes}) == len(changes)
    assert synthetic.Source(split="train").fingerprint() != synthetic.Source(split="test").fingerprint()
    complete = {name: field.default for name, field in lookup.fields("source", "synthetic").items()}
    assert lookup.problems("source", "synthetic", complete) == []
    assert len(lookup.problems("source", "synthetic", {**complete, "symbols": 0, "train_share": 1.0})) == 2
