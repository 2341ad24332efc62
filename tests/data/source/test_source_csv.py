import gzip

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import csv


def items(path, content, **kw):
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    source = csv.Source(split="train", train=str(path), **kw)
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_quotes_breaks_and_columns_by_name(tmp_path, name):
    content = '\ufefftext,category\r\n"a, ""b""\nc",x\r\n\r\nd\u2028e,y'
    found = items(tmp_path / name, content, fields=dict(label="category"))
    assert [(i["text"], i["label"]) for i in found] == [('a, "b"\nc', "x"), ("d\u2028e", "y")]


def test_columns_by_number_without_a_header(tmp_path):
    found = items(tmp_path / "a", '"3","Title","Body"\n"4","T","B"\n', header=False, fields=dict(label=0, text=(1, 2)), join=": ")
    assert found == [{"label": "3", "text": "Title: Body"}, {"label": "4", "text": "T: B"}]


def test_very_long_fields(tmp_path):
    assert len(items(tmp_path / "a", "text\n" + "x" * 200_000)[0]["text"]) == 200_000


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,b\n1,2\n1\n", "a.csv:3: got 1 columns, expected 2 as in the first line"),
        ('a,b\n1,2\n"x\n\ny,2\n', "a.csv:3: unexpected end of data"),
        ('a,b\n"x"y,2\n', "a.csv:2: .*expected after"),
        ("a,a\n1,2\n", "a.csv:1: the header has a column twice"),
        ('a,b\n"1\n",2\n3\n', "a.csv:4: got 1"),
        ("a,b\n", "train split holds nothing"),
        ("a,é\n".encode("latin-1"), "byte 2 is not UTF-8.*encoding="),
    ],
)
def test_damage_is_named_by_file_and_line(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        items(tmp_path / "a.csv", content)


def test_missing_column_is_named_by_file_and_line(tmp_path):
    with pytest.raises(UserError, match='a.csv:2: no field "txt".*Did you mean "text".*Fields: text, label'):
        items(tmp_path / "a.csv", "text,label\na,b\n", fields=dict(text="txt"))


def test_references_are_grouped_by_source(tmp_path):
    (tmp_path / "a").write_text("mr,ref\nA,1\nB,2\nA,3\n")
    kw = dict(fields=dict(source="mr", target="ref"), group=("validation",))
    given = dict(train=str(tmp_path / "a"), validation=str(tmp_path / "a"))
    assert len(csv.Source(split="train", **given, **kw)) == 3
    validation = csv.Source(split="validation", **given, **kw)
    assert [validation[i]["references"] for i in range(2)] == [["1", "3"], ["2"]]
    with pytest.raises(UserError, match="group needs files of each split"):
        len(csv.Source(split="validation", path=str(tmp_path / "a"), **kw))
    with pytest.raises(UserError, match="grouping needs source and target"):
        len(csv.Source(split="validation", **given, group=("validation",)))
