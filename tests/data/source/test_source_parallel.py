import gzip

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data.source import parallel


def write(folder, **sides):
    for name, lines in sides.items():
        (folder / f"x.{name}.gz").write_bytes(gzip.compress("".join(lines).encode()))
    return str(folder / "x.{}.gz")


def pairs(source):
    return [tuple(source[i].values()) for i in range(len(source))]


def test_lines_stay_together_and_pairs_with_a_blank_side_go(tmp_path):
    """Line breaks are line feeds only: other Unicode breaks inside a line must not shift one side."""
    path = write(
        tmp_path, de=["\ufeffeins\u2028\x85\r\n", "\n", "drei\n", " \n", "fünf"], en=["one \n", "two\n", "three\n", "four\n", "five\n"]
    )
    source = parallel.Source(split="train", train=path, source="de", target="en")
    assert pairs(source) == [("eins", "one"), ("drei", "three"), ("fünf", "five")]


def test_splits_of_one_corpus_are_the_same_lines_on_both_sides(tmp_path):
    path = write(tmp_path, a=[f"a{i}\n" for i in range(40)], b=[f"b{i}\n" for i in range(40)])
    found = [pairs(parallel.Source(split=s, path=path, source="a", target="b")) for s in ("train", "validation")]
    assert sorted(found[0] + found[1]) == sorted((f"a{i}", f"b{i}") for i in range(40)) and len(found[1]) == 4


def test_further_references(tmp_path):
    path = write(tmp_path, src=["s\n"], r0=["one\n"], r1=["eins\n"])
    source = parallel.Source(split="test", test=path, source="src", target="r0", references=("r1",))
    assert source[0] == {"source": "s", "target": "one", "references": ["one", "eins"]}


def test_other_counts_are_an_error(tmp_path):
    path = write(tmp_path, a=["1\n", "2\n"], b=["1\n", "2\n", "3"])
    with pytest.raises(UserError, match="x.a.gz has 2 lines, .*x.b.gz 3; expected one for one"):
        len(parallel.Source(split="train", train=path, source="a", target="b"))
