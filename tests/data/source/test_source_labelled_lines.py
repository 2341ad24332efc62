import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import labelled_lines


def items(tmp_path, content, **kw):
    (tmp_path / "a").write_bytes(content.encode(kw.get("encoding", "utf-8")))
    source = labelled_lines.Source(split="train", train=str(tmp_path / "a"), **kw)
    return [(source[i]["label"], source[i]["text"]) for i in range(len(source))]


def test_first_word_is_the_label_coarse_or_fine(tmp_path):
    content = "DESC:manner How did \u00f0 end ?\r\nENTY:cremat\tWhat films ?\n"
    assert items(tmp_path, content, encoding="latin-1") == [("DESC:manner", "How did ð end ?"), ("ENTY:cremat", "What films ?")]
    assert [label for label, _ in items(tmp_path, content, coarse=":")] == ["DESC", "ENTY"]


def test_labels_with_a_prefix(tmp_path):
    content = "__label__a __label__b some __label__x text\n__label__c other\n"
    assert items(tmp_path, content, prefix="__label__", multiple=True) == [(["a", "b"], "some __label__x text"), (["c"], "other")]
    assert items(tmp_path, content, prefix="__label__")[0] == ("a", "__label__b some __label__x text")
    assert items(tmp_path, "no label\n", prefix="__label__", multiple=True) == [([], "no label")]


@pytest.mark.parametrize(
    "content, kw, message", [("x y\nalone\n", {}, "a:2: .*text after the label"), ("x y\n", dict(prefix="__"), "a:1: .*begins with")]
)
def test_damage_says_where(tmp_path, content, kw, message):
    with pytest.raises(UserError, match=message):
        items(tmp_path, content, **kw)
