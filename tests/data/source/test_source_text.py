import os

import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.source import text


def texts(**kw):
    source = text.Source(**kw)
    return [source[i]["text"] for i in range(len(source))]


def test_given_splits(tmp_path):
    for name in ("train_1", "train_2", "val"):
        (tmp_path / name).write_text(f"{name}\r\n  ", newline="")
    kw = dict(train=str(tmp_path / "train_*"), validation=str(tmp_path / "val"))
    assert texts(split="train", **kw) == ["train_1\r\n  ", "train_2\r\n  "]  # as it is in the file
    assert texts(split="validation", **kw) == ["val\r\n  "]
    with pytest.raises(UserError, match="no test split. Given: train, validation"):
        text.Source(split="test", **kw)


def test_one_file_is_cut_where_nanogpt_cuts_it(tmp_path):
    content = "".join(chr(97 + i % 26) for i in range(1115))
    (tmp_path / "input.txt").write_text(content)
    path = str(tmp_path / "input.txt")
    assert texts(split="train", path=path) == [content[: int(1115 * 0.9)]]
    assert texts(split="validation", path=path) == [content[int(1115 * 0.9) :]]


@pytest.mark.parametrize("separator", ["", "\n\n"])
def test_several_documents_are_divided_by_hash(tmp_path, separator):
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"a{i}\n\nb{i}")
    kw = dict(path=str(tmp_path / "*.txt"), document_separator=separator, validation_fraction=0.2)
    train, validation = texts(split="train", **kw), texts(split="validation", **kw)
    everything = [f"{x}{i}" for x in "ab" for i in range(20)] if separator else [f"a{i}\n\nb{i}" for i in range(20)]
    assert sorted(train + validation) == sorted(everything) and len(validation) == len(everything) // 5


def test_empty_split_is_an_error(tmp_path):
    (tmp_path / "a").write_text(" \n")
    with pytest.raises(UserError, match="train split holds nothing"):
        texts(split="train", train=str(tmp_path / "a"))


def test_other_encodings(tmp_path):
    (tmp_path / "a").write_bytes("één\0two".encode("utf-16"))
    assert texts(split="train", train=str(tmp_path / "a"), encoding="utf-16") == ["één\0two"]
    with pytest.raises(UserError, match='encoding "utf9" is not known'):
        text.Source(split="train", train=str(tmp_path / "a"), encoding="utf9")


def test_fingerprint_is_made_without_reading_and_follows_every_change(tmp_path):
    path = tmp_path / "a"
    path.write_text("one two")
    os.chmod(path, 0)
    base = dict(split="train", path=str(path))
    first = text.Source(**base).fingerprint()
    assert first == text.Source(**base).fingerprint()
    others = [dict(split="validation"), dict(validation_fraction=0.5), dict(document_separator=" ")]
    seen = {first, *(text.Source(**{**base, **o}).fingerprint() for o in others)}
    os.utime(path, ns=(5, 5))
    assert len(seen | {text.Source(**base).fingerprint()}) == 5


def test_problems_of_a_config():
    complete = {name: field.default for name, field in lookup.fields("source", "text").items()}
    assert "no data" in lookup.problems("source", "text", complete)[0]
    assert lookup.problems("source", "text", {**complete, "path": "x"}) == []
    assert len(lookup.problems("source", "text", {**complete, "path": "x", "train": "y", "validation_fraction": 1.0})) == 2
