import dataclasses
import gzip
import os

import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data import records
from decoder_lab.data.source import csv, parallel

FILE_SOURCES = (
    "conll",
    "csv",
    "dialogue",
    "e2e_nlg",
    "json",
    "jsonl",
    "labelled_lines",
    "parallel",
    "slot_filling",
    "squad",
    "text",
    "tsv",
)


@pytest.mark.parametrize("name", FILE_SOURCES)
def test_all_sources_of_files_share_their_fields_and_checks(name):
    complete = {n: field.default for n, field in lookup.fields("source", name).items()}
    assert {"path", "train", "validation", "test", "validation_fraction", "encoding"} <= complete.keys()
    assert lookup.given("source", name) == ("split",)
    assert "no data" in lookup.problems("source", name, complete)[0]
    assert lookup.problems("source", name, {**complete, "path": "x"}) == []
    assert len(lookup.problems("source", name, {**complete, "path": "x", "validation": "y", "validation_fraction": 1.0})) == 2


def test_fingerprints_follow_every_setting_and_nothing_else(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,b\nc,d\ne,f\n")
    base = dict(split="train", path=str(path))
    first = csv.Source(**base).fingerprint()
    assert first == csv.Source(**base).fingerprint() == csv.Source(**base, group=[]).fingerprint()  # a list from a stored config
    changes = [dict(header=False), dict(fields=dict(text=0)), dict(join="|"), dict(encoding="latin-1"), dict(group=("test",))]
    changes += [dict(split="validation"), dict(validation_fraction=0.4), dict(quoted=False), dict(delimiter=";")]
    seen = {first, *(csv.Source(**{**base, **change}).fingerprint() for change in changes)}
    os.utime(path, ns=(5, 5))
    assert len({*seen, csv.Source(**base).fingerprint()}) == len(changes) + 2
    given = dict(train=str(path), validation=str(path))
    assert len({csv.Source(split=s, **given).fingerprint() for s in ("train", "validation")}) == 1  # the same file, undivided


def test_mapped_joins_casts_and_keeps():
    record = {"a": "x", "b": ["y", "z"], "n": 3, "c": {"d": [{"e": b"\xc3\xa9"}]}, "none": None, 5: "column"}
    item = records.mapped(record, dict(text="b", source=("a", "none", "b"), label="n", target="c.d.0.e", references="a"), "+")
    assert item["text"] == "y+z" and item["source"] == "x+y+z" and item["label"] == "3" and item["target"] == "é"
    assert item["references"] == ["x"] and item["a"] == "x" and 5 not in item
    assert records.mapped(record, dict(label="b"))["label"] == ["y", "z"]
    assert records.mapped({"s": 0.5}, dict(label="s"))["label"] == 0.5


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(text="aa"), 'no field "aa" .fields.text.*Did you mean "a"'),
        (dict(text=7), "no column 7 .*there are 2"),
        (dict(text="n"), 'field "n" is int, expected a string'),
        (dict(tags="n"), "expected a list of strings"),
        (dict(source=("a", "n")), 'field "n" is int'),
    ],
)
def test_mapped_says_what_is_wrong(fields, message):
    with pytest.raises(records.Wrong, match=message):
        records.mapped({"a": "x", "n": 1}, fields)


def test_grouped_keeps_order_and_every_reference():
    pairs = [("a", "1"), ("b", "2"), ("a", "3")]
    found = records.grouped([{"source": s, "target": t} for s, t in pairs])
    assert found == [{"source": "a", "target": "1", "references": ["1", "3"]}, {"source": "b", "target": "2", "references": ["2"]}]


def test_sides_need_their_place_in_the_name(tmp_path):
    (tmp_path / "x.de").write_text("a\n")
    with pytest.raises(UserError, match=r"train is .*, expected \{\} where the names of its files differ \(de, en\)"):
        parallel.Source(split="train", train=str(tmp_path / "x.de"), source="de", target="en")
    with pytest.raises(UserError, match='no file .*x.en.*Did you mean "x.de"'):
        parallel.Source(split="train", train=str(tmp_path / "x.{}"), source="de", target="en")


def test_only_encodings_whose_lines_can_be_told_apart(tmp_path):
    (tmp_path / "x.a").write_bytes("ä\n".encode("utf-16"))
    with pytest.raises(UserError, match="utf-16. Convert the file"):
        len(parallel.Source(split="train", train=str(tmp_path / "x.{}"), source="a", target="a", encoding="utf-16"))


def test_flat_records_are_divided_whole(tmp_path):
    @dataclasses.dataclass
    class Twins(records.Records):
        flat = True

        def open(self):
            return [[{"text": f"{i}{x}"} for x in "ab"] for i in range(10)]

    (tmp_path / "x").write_bytes(gzip.compress(b"x"))
    parts = [Twins(split=s, path=str(tmp_path / "x")) for s in ("train", "validation")]
    train, validation = ([p[i]["text"] for i in range(len(p))] for p in parts)
    assert len(train) == 18 and len(validation) == 2 and validation[0][0] == validation[1][0]
    assert sorted(train + validation) == sorted(f"{i}{x}" for i in range(10) for x in "ab")
