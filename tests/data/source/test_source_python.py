"""The sources made of the interpreter's own library, but for python_stdlib."""

import ast
import builtins

import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.data import interpreter
from decoder_lab.data.source import python_docstrings, python_identifiers, python_packages, python_parameters

MODULES = (python_docstrings, python_packages, python_identifiers, python_parameters)
SPLITS = ("train", "validation", "test")


def items(module, split, **kw):
    source = module.Source(split=split, **kw)
    return [source[i] for i in range(len(source))]


@pytest.fixture(scope="module", autouse=True)
def fewer_files():
    """Parsing all of the library for every source would take most of a minute; the packages keep all their labels."""
    everything = interpreter.names()
    labels = python_packages.labels()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_packages, "labels", lambda: labels)
        patch.setattr(interpreter, "names", lambda: tuple(sorted(everything))[::5])
        yield


@pytest.mark.parametrize("module", MODULES)
def test_splits_are_by_file_and_large_enough(module):
    sources = [module.Source(split=s) for s in SPLITS]
    files = [{(item.get("path") or item["id"]).split(":")[0] for item in items(module, s)} for s in SPLITS]
    assert not files[0] & files[1] and not files[0] & files[2] and not files[1] & files[2]
    assert len(sources[0]) > 500 and min(len(s) for s in sources[1:]) > 10
    assert len({s.fingerprint() for s in sources}) == 3 and sources[0].fingerprint() == module.Source(split="train").fingerprint()
    with pytest.raises(UserError, match="expected one of train, validation, test"):
        module.Source(split="valid")


def test_docstrings_are_not_in_their_functions():
    found = items(python_docstrings, "validation") + items(python_docstrings, "train")[:500]
    for item in found:
        node = ast.parse(item["source"]).body[0]
        assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is None
        assert "\n" not in item["target"] and len(item["target"].split()) >= 3
    assert len({(i["source"], i["target"]) for i in found}) == len(found)


@pytest.mark.parametrize(
    "docstring, expected",
    [
        ("One line.", "One line."),
        ("First\n    and second.\n\n    More.", "First and second."),
        ("f(x, y) -> int\n\n    Adds them.", "Adds them."),
        ("f(x)", ""),
    ],
)
def test_summaries(docstring, expected):
    assert python_docstrings.summary(docstring) == expected


def test_packages_are_labelled_by_their_folder():
    train = items(python_packages, "train")
    labels = {item["label"] for item in train}
    assert len(labels) >= 8 and labels <= set(python_packages.labels())
    for item in train + items(python_packages, "validation"):
        assert item["path"].startswith(item["label"] + "/") and item["label"] in labels
        assert item["text"].strip() and len(item["text"].split("\n")) <= python_packages.LINES


SNIPPET = """async def f(self, a, *args, b: int=max(1, 2), **kw):
    import os.path as p, sys
    from . import x
    global g
    try:
        c = [len(i) for i in a.rows if i is not None]  # a comment
        self.d.e(key=c, other=p.join(a, Other), text='a long string of words' "b")
    except (ValueError, TypeError) as error:
        raise Known(error.args[0]) from None
    g, c[0] = lambda q: q + b, helper
    return f'{a}' + \\
        module.part.call(args)
"""


def test_roles_of_a_snippet():
    outside = dict(module="import", helper="function", Known="class")
    words, tags = python_identifiers.tag(SNIPPET, ast.parse(SNIPPET).body[0], outside)
    found = [(w, t) for w, t in zip(words, tags, strict=True) if t != "O"]
    expected = (
        "f/B-function self/B-parameter a/B-parameter args/B-parameter b/B-parameter int/B-builtin max/B-builtin kw/B-parameter "
        "os/B-import ./I-import path/I-import p/B-import sys/B-import x/B-import g/B-global c/B-local len/B-builtin i/B-local i/B-local "
        "a/B-parameter rows/B-attribute i/B-local self/B-parameter d/B-attribute e/B-method key/B-keyword c/B-local other/B-keyword "
        "p/B-import ./I-import join/I-import a/B-parameter Other/B-global text/B-keyword ValueError/B-builtin TypeError/B-builtin "
        "error/B-local Known/B-class error/B-local args/B-attribute g/B-global c/B-local q/B-parameter q/B-parameter b/B-parameter "
        "helper/B-function module/B-import ./I-import part/I-import ./I-import call/I-import args/B-parameter"
    )
    assert " ".join(f"{w}/{t}" for w, t in found) == expected
    assert '"..."' in words and '"b"' in words and "comment" not in " ".join(words) and "\\" not in words


def test_tags_are_valid_and_words_are_words():
    roles = set()
    for item in items(python_identifiers, "validation") + items(python_identifiers, "train")[:1000]:
        before = "O"
        assert len(item["words"]) == len(item["tags"]) <= 80
        for word, tag in zip(item["words"], item["tags"], strict=True):
            assert word and not any(c.isspace() for c in word)
            assert not tag.startswith("I-") or before[2:] == tag[2:]
            if tag == "B-builtin":
                assert hasattr(builtins, word)
            before = tag
            roles.add(tag[2:])
    expected = "function class parameter local attribute method keyword builtin global import".split()
    assert roles == {"", *expected}


def test_every_answer_stands_at_its_start():
    found = items(python_parameters, "validation") + items(python_parameters, "train")[:3000]
    for item in found:
        (answer,) = item["answers"]
        context, start, end = item["context"], answer["start"], answer["start"] + len(answer["text"])
        assert context[start:end] == answer["text"] and not (context[start - 1] + context[end]).isidentifier()
        node = ast.parse(context).body[0]
        assert answer["text"] in {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        assert start < len(context.split(":\n")[0]) + 1 or ":" in context[:start]
    assert len({item["id"] for item in found}) == len(found)
    assert len({item["question"].split(" ")[3] for item in found}) >= 5


def test_questions_have_one_answer_only():
    node = ast.parse("def f(self, a, b=None, *c, d=None, e=3):\n    g(a); g(b); h(a)\n    return e if a.x is None else b[0]").body[0]
    assert python_parameters.questions(node) == [
        ("Of which parameter is the attribute x used?", "a"),
        ("Which parameter comes fifth?", "e"),
        ("Which parameter comes first?", "a"),
        ("Which parameter comes fourth?", "d"),
        ("Which parameter comes last?", "e"),
        ("Which parameter comes second?", "b"),
        ("Which parameter comes third?", "c"),
        ("Which parameter has the default value 3?", "e"),
        ("Which parameter is indexed?", "b"),
        ("Which parameter is passed to h?", "a"),
        ("Which parameter takes the remaining positional arguments?", "c"),
    ]


def test_questions_without_an_answer_if_asked():
    plain, more = (items(python_parameters, "validation", no_answer=flag) for flag in (False, True))
    empty = [item for item in more if not item["answers"]]
    assert [item for item in more if item["answers"]] == plain and 0.02 < len(empty) / len(more) < 0.2
    for item in empty:
        value = item["question"].removeprefix("Which parameter has the default value ").removesuffix("?")
        arguments = ast.parse(item["context"]).body[0].args
        assert value not in [ast.unparse(d) for d in [*arguments.defaults, *arguments.kw_defaults] if d]


def test_functions_inside_anything_are_found():
    for name in ("contextlib.py", "dataclasses.py"):
        tree = ast.parse(interpreter.read(name))
        expected = sorted(n.lineno for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
        assert sorted(f.node.lineno for f in interpreter.functions([name])) == expected


@pytest.mark.parametrize("kind", ["other", "shuffled"])
def test_a_rejected_docstring_is_never_the_chosen_one(kind):
    source = python_docstrings.Source("validation", rejected=kind)
    plain = python_docstrings.Source("validation")
    found = [source[i] for i in range(len(source))]
    assert found == [source[i] for i in range(len(source))] and source.fingerprint() != plain.fingerprint()
    targets = {item["target"] for item in found}
    for item in found:
        assert item["chosen"] == item["target"] != item["rejected"]
        same_words = sorted(item["rejected"].split()) == sorted(item["target"].split())
        assert same_words if kind == "shuffled" else item["rejected"] in targets
    assert "chosen" not in plain[0]
