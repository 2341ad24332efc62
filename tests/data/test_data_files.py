import gzip
import os

import numpy as np
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data import files


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_expand_names_and_globs_in_order(tmp_path):
    for name in ("b.txt", "a.txt", "c.md"):
        write(tmp_path / name, b"x")
    (tmp_path / "d.txt").mkdir()
    assert [p.name for p in files.expand(str(tmp_path / "*.txt"), "here")] == ["a.txt", "b.txt"]
    assert files.expand(str(tmp_path / "c.md"), "here") == [tmp_path / "c.md"]


def test_expand_finds_files_with_glob_characters_in_their_names(tmp_path):
    assert files.expand(str(write(tmp_path / "a[1].txt", b"x")), "here") == [tmp_path / "a[1].txt"]


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("trian.txt", 'source x: train: there is no file.*Did you mean "train.txt"'),
        ("*.csv", "no file matches"),
        ("", "is a directory"),
        ("no/where.txt", "no directory"),
    ],
)
def test_missing_files_say_what_is_near(tmp_path, pattern, message):
    write(tmp_path / "train.txt", b"x")
    with pytest.raises(UserError, match=message):
        files.expand(str(tmp_path / pattern), "source x: train")


def test_a_missing_file_is_named_by_the_place_that_was_looked_at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for pattern, said in (("data/a.txt", f"there is no file {tmp_path}/data/a.txt"), ("x*.txt", f"no file matches {tmp_path}/x")):
        with pytest.raises(UserError, match=said):
            files.expand(pattern, "source x: train")


def test_for_split(tmp_path):
    path = str(write(tmp_path / "a", b"x"))
    assert files.for_split("s", "train", dict(train=path), None) == ([tmp_path / "a"], False)
    assert files.for_split("s", "validation", {}, path) == ([tmp_path / "a"], True)
    with pytest.raises(UserError, match="no test split. Given: path"):
        files.for_split("s", "test", {}, path)
    with pytest.raises(UserError, match="expected one of train, validation, test"):
        files.for_split("s", "valid", {}, path)


def test_fingerprint_changes_with_content_name_and_settings(tmp_path):
    path = write(tmp_path / "a", b"one")
    seen = {files.fingerprint([path]), files.fingerprint([path], 1)}
    write(path, b"two")  # of equal size
    os.utime(path, ns=(1, 2))
    seen.add(files.fingerprint([path]))
    seen.add(files.fingerprint([path.rename(tmp_path / "b")]))
    assert len(seen) == 4


@pytest.mark.parametrize("count", [2, 3, 10, 1000])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.4])
def test_divide_is_a_partition_with_something_in_each(count, fraction):
    train, validation = files.divide(count, "train", fraction), files.divide(count, "validation", fraction)
    assert sorted([*train, *validation]) == list(range(count))
    assert len(validation) == max(1, round(fraction * count)) and (np.diff(train) > 0).all()


def test_divide_needs_enough_documents():
    with pytest.raises(UserError, match="nothing is left for training"):
        files.divide(1, "train", 0.1)


@pytest.mark.parametrize("suffix", ["txt", "gz"])
def test_documents_between_separators(tmp_path, suffix):
    first = write(tmp_path / f"1.{suffix}", "één<|>two\n<|><|>  <|>four".encode())
    second = write(tmp_path / f"2.{suffix}", b"five<|>")
    empty = write(tmp_path / f"3.{suffix}", b"")
    documents = files.Documents([first, second, empty], b"<|>")
    assert [documents.text(i) for i in range(len(documents))] == ["één", "two\n", "four", "five"]
    whole = files.Documents([first, second, empty])
    assert [whole.text(i) for i in range(len(whole))] == ["één<|>two\n<|><|>  <|>four", "five<|>"]
    assert documents.where(2).endswith(f"1.{suffix}:2")


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_cut_loses_nothing_and_keeps_characters_whole(tmp_path, fraction):
    text = "漢字é😀x" * 7
    path = write(tmp_path / "a", text.encode())
    halves = []
    for split in ("train", "validation"):
        documents = files.Documents([path])
        documents.cut(split, fraction)
        halves.append(documents.text(0))
    assert "".join(halves) == text
    assert abs(len(halves[1].encode()) - fraction * len(text.encode())) <= 4


def test_not_utf8_says_where(tmp_path):
    documents = files.Documents([write(tmp_path / "a", b"good|b\xffd")], b"|")
    assert documents.text(0) == "good"
    with pytest.raises(UserError, match="a: byte 6 is not UTF-8"):
        documents.text(1)


def test_broken_gzip(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"abc" * 1000)[:-9])
    (tmp_path / "b.gz").write_bytes(b"plain")
    for name in "ab":
        with pytest.raises(UserError, match="not a complete gzip file"):
            files.Documents([tmp_path / f"{name}.gz"])
