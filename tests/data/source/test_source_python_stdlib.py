import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import python_stdlib


@pytest.fixture(scope="module")
def splits():
    return {name: python_stdlib.Source(split=name) for name in ("train", "validation", "test")}


def test_size_and_shares(splits):
    sizes = {name: sum(len(s[i]["text"].encode()) for i in range(len(s))) for name, s in splits.items()}
    assert 8e6 < sum(sizes.values()) < 16e6
    assert 0.8 < sizes["train"] / sum(sizes.values()) < 0.97 and min(sizes.values()) > 1e5


def test_splits_share_no_document_and_leave_tests_and_packages_out(splits):
    paths = [s[i]["path"] for s in splits.values() for i in range(len(s))]
    assert len(set(paths)) == len(paths) > 500
    folders = {part for p in paths for part in p.split("/")[:-1]}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert "argparse.py" in paths and "json/decoder.py" in paths and not any("_sysconfigdata" in p for p in paths)


def test_holds_prose(splits):
    train = splits["train"]
    topics = [i for i in range(len(train)) if train[i]["path"].startswith("pydoc_data/topics/")]
    assert len(topics) > 50 and sum(len(train[i]["text"]) for i in topics) > 200_000


def test_order_and_fingerprint_are_stable(splits):
    again = python_stdlib.Source(split="train")
    assert [again[i]["path"] for i in range(len(again))] == [splits["train"][i]["path"] for i in range(len(again))]
    assert again.fingerprint() == splits["train"].fingerprint() != splits["test"].fingerprint()


def test_unknown_split():
    with pytest.raises(UserError, match="expected one of train, validation, test"):
        python_stdlib.Source(split="valid")
