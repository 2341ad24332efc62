"""What Python's parser says of functions: constructs, depth and claims."""

import ast

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data import interpreter
from decoder_lab.data.source import python_functions, python_identifiers

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def items():
    """split -> items of a part of the library."""
    names = tuple(sorted(interpreter.names()))[::10]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "names", lambda: names)
        sources = {split: python_functions.Source(split=split) for split in SPLITS}
        return {split: [source[i] for i in range(len(source))] for split, source in sources.items()}


def test_splits_are_by_file_and_items_do_not_change(items):
    files = [{item["path"].split(":")[0] for item in items[split]} for split in SPLITS]
    assert not files[0] & files[1] and not files[0] & files[2] and not files[1] & files[2]
    assert len(items["train"]) > 500 and all(items.values())
    assert len({python_functions.Source(split=s).fingerprint() for s in SPLITS}) == 3
    with pytest.raises(UserError, match="expected one of train, validation, test"):
        python_functions.Source(split="valid")


@pytest.mark.parametrize(
    "body, expected",
    [
        ("return [f(x) for x in a]", "comprehensions, returned values"),
        ("for x in a:\n  f(x)", "loops"),
        ("a.b, c = d[0], d[1:]", "attributes set, items taken, slices, unpacking"),
        ("a[0] = '%s' % f(g(b, k=1))", "calls inside calls, formatting, items set, keywords"),
        ("return 'x' if a in b else f().g()", "alternatives, calls of results, conditions, membership, returned values"),
        ("try:\n  pass\nexcept E:\n  raise", "handlers, raised errors"),
        ("def inner(a=1, *b): return a % 2 + 1", "arithmetic, defaults, returned values, variable arguments"),
    ],
)
def test_constructs_of_a_snippet(body, expected):
    tree = ast.parse("def f(a):\n" + "\n".join(f"  {line}" for line in body.split("\n")))
    assert ", ".join(python_functions.constructs(tree)) == expected


def test_depth_is_that_of_the_tree_and_the_docstring_does_not_count():
    without, with_one = (ast.parse(f"def f(a):\n  {doc}\n  return g(a)").body[0] for doc in ("pass", "'does it'"))
    # function, return, call, name
    assert python_functions._depth(without, None) == python_functions._depth(with_one, with_one.body[0]) == 4
    deeper = ast.parse("def f(a):\n  return g(h(a))").body[0]
    assert python_functions._depth(deeper, None) == 5


def test_claims_are_true_or_false_as_labelled_and_half_of_them_are_true(items):
    train = items["train"]
    for item in train:
        name = item["text_pair"].removeprefix("It has ").removesuffix(".")
        assert name in python_functions.CLAIMED and (name in item["constructs"]) == (item["label"] == "true")
    assert 0.4 < sum(item["label"] == "true" for item in train) / len(train) < 0.6
    assert {item["text_pair"] for item in train} == {f"It has {name}." for name in python_functions.CLAIMED}
    assert set(python_functions.CLAIMED) <= set(python_functions.CONSTRUCTS)


@pytest.mark.parametrize(
    "body, expected",
    [
        ("return self.x", "query"),
        ("x = 1\n  return x", "query"),
        ("self.x = 1\n  return self", "change"),
        ("del a[0]\n  return a", "change"),
        ("self.x = 1", "command"),
        ("if a: return\n  a.clear()", "command"),
        ("g(lambda: (yield))", "command"),
        ("def g(): return 1\n  a.append(g)", "command"),
        ("while a: yield a", "generator"),
        ("raise NotImplementedError", "stub"),
        ("...", "stub"),
    ],
)
def test_purpose_of_a_function(body, expected):
    assert python_identifiers.purpose(ast.parse(f"def f(self, a):\n  {body}").body[0]) == expected
