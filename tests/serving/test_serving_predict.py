"""Predictions for a file of items: every item answered, in order, whatever the batch, with mistakes named by line."""

import dataclasses
import gzip
import io
import json
import pathlib
import types
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.serving import predict


@dataclasses.dataclass(frozen=True)
class Sums:
    """Predicts the sum of a text's digits; texts of more than 4 are read in windows, texts without a digit give no example."""

    length: int = 16
    text_field: str = "text"

    def example(self, raw):
        digits = np.array([int(c) for c in raw["text"] if c.isdigit()], np.int32)
        return [{"tokens": digits[i : i + 4], "segments": np.ones(len(digits[i : i + 4]), np.int32)} for i in range(0, len(digits), 4)]

    def predict(self, model, params, batch):
        return jnp.sum(batch["tokens"] * batch["segments"], axis=1) * params

    def decode(self, predictions, batch):
        return np.asarray(predictions).tolist()

    def join(self, raw, parts):
        return {"sum": sum(parts), "windows": len(parts)}


ITEMS = [{"text": "1234567"}, {"text": "none"}, {"text": "9"}, {"text": "11111111", "id": "x"}, {"text": "42"}]


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_every_item_is_answered_in_its_order(batch_size):
    out = io.StringIO()
    assert predict.run(ITEMS, predict.predictor(Sums(), None, jnp.asarray(2), batch_size), out) == 5
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4] and lines[3]["id"] == "x"
    sums = [{"sum": 56, "windows": 2}, None, {"sum": 18, "windows": 1}, {"sum": 16, "windows": 2}, {"sum": 12, "windows": 1}]
    assert [line["prediction"] for line in lines] == sums


def test_a_wrong_item_is_named_and_answers_are_not_looked_at(monkeypatch):
    class Known(Sums):
        gold_fields = ("label",)

        def example(self, raw):
            if "label" in raw:
                raise AssertionError("an answer is not needed to predict")
            if "text" not in raw:
                raise UserError("no text")
            return super().example(raw)

        def prompt(self, raw):
            return self.example(raw)

    monkeypatch.setattr(predict, "AT_ONCE", 2)
    out = io.StringIO()
    predict.run([{"text": "12", "label": "new"}], predict.predictor(Known(), None, jnp.asarray(1), 2), out)
    assert json.loads(out.getvalue())["prediction"] == {"sum": 3, "windows": 1}
    items = [{"text": "1"}, {"text": "2"}, {"text": "3"}, {}]
    with pytest.raises(UserError, match="item 3 of the input .*: no text"):
        predict.run(items, predict.predictor(Known(), None, jnp.asarray(1), 2), io.StringIO())
    monkeypatch.setattr("decoder_lab.decoding.generate.Generator.for_task", lambda *_: None)
    monkeypatch.setattr("decoder_lab.decoding.batches.generate_all", lambda g, p, prompts, *_, **__: [types.SimpleNamespace(text="")] * 2)
    answer = predict.writer(Known(), None, None, None, None, num_tokens=1, batch_size=1, seed=0)
    with pytest.raises(UserError, match="item 3 of the input .*: no text"):
        predict.run(items, answer, io.StringIO())


def test_blank_sources_give_null_and_cut_ones_say_so(monkeypatch):
    """An empty line was answered with an invention, and a long one cut without a word."""

    class Pairs:
        def prompt(self, raw):
            return {"tokens": list(raw["source"][:3])}

        def extent(self, raw):
            return len(raw["source"].strip()), max(0, len(raw["source"]) - 3)

    def generate_all(generator, params, prompts, settings, *, seed, numbers, **sizes):
        return [
            types.SimpleNamespace(text=f"{number} {''.join(prompt['tokens'])}") for number, prompt in zip(numbers, prompts, strict=True)
        ]

    monkeypatch.setattr(predict, "AT_ONCE", 2)
    monkeypatch.setattr("decoder_lab.decoding.generate.Generator.for_task", lambda *_: None)
    monkeypatch.setattr("decoder_lab.decoding.batches.generate_all", generate_all)
    answer = predict.writer(Pairs(), None, None, None, None, num_tokens=1, batch_size=1, seed=0)
    out, news = io.StringIO(), io.StringIO()
    predict.run([{"source": text} for text in ("", " ", "abcdef", "", "ab")], answer, out, news)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["prediction"] for line in lines] == [None, None, "2 abc", None, "4 ab"]
    assert [line.get("cut") for line in lines] == [None, None, 3, None, None]
    assert [line[:28] for line in news.getvalue().splitlines()] == ["warning: 1 of 5 items: too l", "warning: 3 of 5 items: nothi"]


def test_an_output_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), predict.output(str(path)) as out:
        out.write("half")
        1 / 0  # noqa: B018
    assert path.read_text() == "before" and (tmp_path / "out.jsonl.part").read_text() == "half"
    with predict.output(str(path)) as out:
        out.write("whole")
    assert path.read_text() == "whole" and [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]
    with predict.output("/dev/null") as out:
        out.write("x")
    assert pathlib.Path("/dev/null").is_char_device()


def test_a_stream_is_answered_group_by_group(monkeypatch):
    monkeypatch.setattr(predict, "AT_ONCE", 2)
    sizes = []
    out = io.StringIO()
    predict.run(iter(ITEMS), lambda group: [sizes.append(len(group)) or 0] * len(group), out)
    assert len(out.getvalue().splitlines()) == 5 and sizes == [2, 2, 1]


def read(tmp_path, name, text, task) -> list[Any]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(predict.read_items(str(path), task))


def test_json_lines_and_lines_of_text(tmp_path, monkeypatch):
    pairs = types.SimpleNamespace(prompt=None)
    assert read(tmp_path, "a.jsonl", '{"text": "a"}\n\n{"text": "b"}', Sums()) == [{"text": "a"}, {"text": "b"}]
    for name, text in (("a.txt", "a"), ("a.jsonl", '{"text": "a"}')):  # a byte-order mark
        assert read(tmp_path, name, b"\xef\xbb\xbf" + text.encode(), Sums()) == [{"text": "a"}]
    assert read(tmp_path, "a.txt", '{"text": 1}\r\nb\n\n', Sums()) == [{"text": '{"text": 1}'}, {"text": "b"}, {"text": ""}]
    assert read(tmp_path, "a.txt", "a b\n", pairs) == [{"source": "a b"}]
    for typed, expected in [('{"text": "x"}\n', [{"text": "x"}]), ("x\n", [{"text": "x"}]), ("\ufeffx\n", [{"text": "x"}])]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert list(predict.read_items("-", Sums())) == expected


def test_tables_and_packed_files(tmp_path):
    """A table is read as the run's source reads one, without the column that is to be predicted."""
    labelled = types.SimpleNamespace(gold_fields=("label",))
    table = 'comment,stars\n"a, b",3\nc,1\n'
    own = dict(name="csv", kw=predict.TABLES[".csv"] | dict(fields=dict(text="comment", label="kind"), train="x.csv"))
    path = tmp_path / "a.csv"
    path.write_text(table)
    assert [item["text"] for item in predict.read_items(str(path), labelled, own)] == ["a, b", "c"]
    assert read(tmp_path, "b.tsv", 'text\tid\n"1\t7\n', Sums()) == [{"text": '"1', "id": "7"}]
    assert read(tmp_path, "c.csv", 'text,id\na,1\n,\n\n"",\nb,2\n', Sums()) == [
        {"text": text, "id": number} for text, number in (("a", "1"), ("", ""), ("", ""), ("b", "2"))
    ]
    for task in ("sequence_to_sequence", "prefix_language_modeling"):  # a table of sources alone
        own_pairs = dict(name="tsv", kw=predict.TABLES[".tsv"] | dict(fields=dict(source=0, target=1), header=False))
        (tmp_path / "d.tsv").write_text("hello there\n")
        found = list(predict.read_items(str(tmp_path / "d.tsv"), lookup.find("task", task), own_pairs))
        assert found == [{"source": "hello there"}]
    with pytest.raises(UserError, match='a.csv:2: no field "comments".*Did you mean "comment"'):
        list(predict.read_items(str(path), Sums(), own | dict(kw=own["kw"] | dict(fields=dict(text="comments")))))
    lines = b'{"text": "a"}\n{"text": "b"}\n'
    assert read(tmp_path, "a.jsonl.gz", gzip.compress(lines), Sums()) == [{"text": "a"}, {"text": "b"}]
    assert read(tmp_path, "a.txt.gz", gzip.compress(b"a\n"), Sums()) == [{"text": "a"}]
    damaged = bytearray(gzip.compress(lines * 99))
    damaged[len(damaged) // 2] ^= 255
    for content in (gzip.compress(lines)[:-9], lines, bytes(damaged)):
        with pytest.raises(UserError, match="not a complete gzip file"):
            read(tmp_path, "a.jsonl.gz", content, Sums())


def test_questions_as_squad_has_them(tmp_path):
    """What its own source reads is what a reader is asked with; answers, and whether there are any, are not looked at."""
    questions = [{"id": "q1", "question": "Where?", "answers": [{"text": "Oslo"}]}, {"question": "Who?"}]
    path, source = tmp_path / "dev.json", dict(name="squad", kw=dict(encoding="utf-8"))
    articles = [{"paragraphs": [{"context": "In Oslo.", "qas": questions}]}]
    for content in ({"data": articles}, articles):
        path.write_text(json.dumps(content, indent=1))
        found = list(predict.read_items(str(path), Sums(), source))
        wanted = [("q1", "Where?", "In Oslo."), (None, "Who?", "In Oslo.")]
        assert [(raw.get("id"), raw["question"], raw["context"]) for raw in found] == wanted
    lines = [{"question": "Where?", "context": "In Oslo."}, {"question": "Who?", "context": "Ann."}]
    path.write_text("\n".join(map(json.dumps, lines)))  # JSON lines under the same ending, and for other runs
    assert list(predict.read_items(str(path), Sums(), source)) == list(predict.read_items(str(path), Sums())) == lines


def test_mistakes_are_named_by_line(tmp_path):
    for name, text, said in [
        ("a.jsonl", '{"text": "a"}\n{"text": ', "a.jsonl:2: not JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: got list"),
        ("a.txt", b"a\ncaf\xe9\n", "a.txt:2: not UTF-8"),
    ]:
        with pytest.raises(UserError, match=said):
            read(tmp_path, name, text, Sums())
    with pytest.raises(UserError, match="no file"):
        list(predict.read_items(str(tmp_path / "none"), Sums()))
    two = dataclasses.make_dataclass("Two", [("text_field", str, "text"), ("pairs", str, "types")])()
    with pytest.raises(UserError, match="JSON lines"):
        read(tmp_path, "a.txt", "a\n", two)
