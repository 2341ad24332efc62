import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import conll


def items(tmp_path, content, **kw):
    (tmp_path / "a").write_text(content, newline="")
    source = conll.Source(split="train", train=str(tmp_path / "a"), **kw)
    return [source[i] for i in range(len(source))]


def test_sentences_end_at_lines_of_white_space(tmp_path):
    content = "\r\nEU\tB-org\r\nrejects\tO\r\n\t\r\n#\tO\n \n\nlast\u2028one\tO"
    assert items(tmp_path, content) == [
        {"words": ["EU", "rejects"], "tags": ["B-org", "O"]},
        {"words": ["#"], "tags": ["O"]},
        {"words": ["last\u2028one"], "tags": ["O"]},
    ]


def test_columns_and_lines_left_out(tmp_path):
    content = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ  I-VP O\n\n"
    assert items(tmp_path, content) == [{"words": ["EU", "rejects"], "tags": ["B-ORG", "O"]}]
    assert items(tmp_path, content, tag_column=1)[0]["tags"] == ["NNP", "VBZ"]
    ud = "# text = Del sol\n1-2\tDel\t_\t_\n1\tDe\tde\tADP\n2\tel\tel\tDET\n3\tsol\tsol\tNOUN\n\n"
    found = items(tmp_path, ud, word_column=1, tag_column=3, skip=r"#|\d+[-.]")
    assert found == [{"words": ["De", "el", "sol"], "tags": ["ADP", "DET", "NOUN"]}]


@pytest.mark.parametrize(
    "content, kw, message",
    [
        ("EU B\nrejects\n", {}, "a:2: .*expected a word and a tag"),
        ("EU B\n", dict(tag_column=3), r"a:1: got 2 column\(s\), expected word_column=0, tag_column=3"),
        ("\tB\n", {}, "a:1: .*expected a word and a tag"),
        ("EU B\n", dict(skip="("), "is not a regex"),
    ],
)
def test_damage_says_where(tmp_path, content, kw, message):
    with pytest.raises(UserError, match=message):
        items(tmp_path, content, **kw)
