import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import tsv


def items(path, content, **kw):
    path.write_text(content, newline="")
    source = tsv.Source(split="train", train=str(path), **kw)
    return [source[i] for i in range(len(source))]


def test_quotes_mean_nothing(tmp_path):
    found = items(tmp_path / "a", 'text\tlabel\r\n"one\t0\r\ntwo"\x85\r\x0c"\t1\n')
    assert found == [{"text": '"one', "label": "0"}, {"text": 'two"\x85\r\x0c"', "label": "1"}]
    assert items(tmp_path / "b", '"a\tb"\t1\n', quoted=True, header=False, fields=dict(text=0)) == [{"text": "a\tb"}]


def test_rows_of_other_length_say_where(tmp_path):
    with pytest.raises(UserError, match=r"a:3: got 3 columns, expected 2.*divided by '\\t', and quotes mean nothing"):
        items(tmp_path / "a", "x\t1\n\ny\tz\t2\n", header=False, fields=dict(text=0, label=1))
