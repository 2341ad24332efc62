import gzip
import json

import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.source import jsonl


def write(path, lines):
    content = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_items_have_text_and_all_fields(tmp_path, name):
    path = write(tmp_path / name, [{"body": "é\n1", "id": 1}, "", "  ", {"body": "2", "id": [2]}])
    source = jsonl.Source(split="train", train=path, fields=dict(text="body"))
    assert [source[i] for i in range(len(source))] == [{"text": "é\n1", "body": "é\n1", "id": 1}, {"text": "2", "body": "2", "id": [2]}]


def test_lines_are_divided(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": str(i)} for i in range(50)])
    parts = [jsonl.Source(split=s, path=path) for s in ("train", "validation")]
    found = [[p[i]["text"] for i in range(len(p))] for p in parts]
    assert sorted(map(int, found[0] + found[1])) == list(range(50)) and len(found[1]) == 5
    assert parts[0].fingerprint() != parts[1].fingerprint()


@pytest.mark.parametrize(
    "line, message",
    [
        ({"txt": "a", "id": 3}, r'jsonl:2: no field "text".*Did you mean "txt".*Fields: txt, id'),
        ("{oops", r"jsonl:2: not JSON.*column 2"),
        ("[1]", "jsonl:2: got list, expected an object"),
        ({"text": 5}, "jsonl:2: .*is int, expected a string"),
    ],
)
def test_wrong_lines_say_where_and_what(tmp_path, line, message):
    source = jsonl.Source(split="train", train=write(tmp_path / "a.jsonl", [{"text": "good"}, line]))
    assert source[0]["text"] == "good"
    with pytest.raises(UserError, match=message):
        source[1]


def test_empty_file(tmp_path):
    with pytest.raises(UserError, match="train split holds nothing"):
        len(jsonl.Source(split="train", train=write(tmp_path / "a.jsonl", [""])))


def test_fields_of_lists_and_inner_values(tmp_path):
    record = {"source": ["One.", "Two."], "target": ["a", "b"], "meta": {"kind": 3}, "extra": None}
    path = write(tmp_path / "a.jsonl", [record])
    fields = dict(source="source", target="target.0", references="target", label="meta.kind", text=("target.1", "extra", "source"))
    item = jsonl.Source(split="train", train=path, fields=fields)[0]
    assert (item["source"], item["target"], item["references"], item["label"]) == ("One. Two.", "a", ["a", "b"], "3")
    assert item["text"] == "b One. Two." and item["meta"] == {"kind": 3}
    for place in ("target.2", "meta.kid", "source.x", "nothing"):
        with pytest.raises(UserError, match=f'jsonl:1: no field "{place}"'):
            jsonl.Source(split="train", train=path, fields=dict(text=place))[0]


def test_problems_of_a_config():
    complete = {name: field.default for name, field in lookup.fields("source", "jsonl").items()}
    assert "no data" in lookup.problems("source", "jsonl", complete)[0]
    assert len(lookup.problems("source", "jsonl", {**complete, "path": "x", "validation": "y", "validation_fraction": 0.0})) == 2
