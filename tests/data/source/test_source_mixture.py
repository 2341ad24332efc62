import pytest

from decoder_lab.core import lookup
from decoder_lab.core.errors import UserError
from decoder_lab.data.source import mixture


def parts(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(f"{name}1|{name}2|{name}3")
    return {n: dict(name="text", kw=dict(train=str(tmp_path / n), document_separator="|")) for n in "ab"}


def test_documents_are_those_of_the_parts(tmp_path):
    source = mixture.Source(split="train", parts=parts(tmp_path), weights=dict(a=1, b=2))
    assert [source[i]["text"] for i in range(len(source))] == ["a1", "a2", "a3", "b1", "b2", "b3"]
    assert list(source.sources) == ["a", "b"]


def test_errors_name_the_part(tmp_path):
    with pytest.raises(UserError, match='part "a": source text: there is no validation split'):
        mixture.Source(split="validation", parts=parts(tmp_path), weights=dict(a=1, b=2))


def test_problems_of_a_config():
    def found(**kw):
        return lookup.problems("source", "mixture", kw)

    part = dict(name="text", kw={})
    assert found(parts={}, weights={})[0].startswith("parts is empty")
    assert found(parts=dict(a=part, b=part), weights=dict(a=1, b=0.5)) == []
    assert "weights are for a; the parts are a, b" in found(parts=dict(a=part, b=part), weights=dict(a=1))
    assert "weights must be above 0: b=0" in found(parts=dict(a=part, b=part), weights=dict(a=1, b=0))
    assert lookup.fields("source", "mixture")["parts"].plugins == "source"
