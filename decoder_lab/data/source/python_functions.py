"""Functions of the running interpreter's own library and what Python's parser says of each: several labels, a score, and claims that are
true or false. Classification of every kind that needs no download."""

import ast
import dataclasses
import functools
from collections.abc import Iterator

import numpy as np

from decoder_lab.data import counter, interpreter

CHARACTERS = (60, 1000)  # of a function
# what a function may have: name -> whether a node of its tree is one
CONSTRUCTS = {
    "alternatives": lambda n: isinstance(n, ast.If | ast.IfExp) and bool(n.orelse),
    "arithmetic": lambda n: isinstance(n, ast.BinOp) and isinstance(n.op, ast.Add | ast.Sub | ast.Mult | ast.Div | ast.FloorDiv),
    "attributes set": lambda n: isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store),
    "calls inside calls": lambda n: isinstance(n, ast.Call) and any(isinstance(a, ast.Call) for a in n.args),
    "calls of results": lambda n: isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and isinstance(n.func.value, ast.Call),
    "comprehensions": lambda n: isinstance(n, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp),
    "conditions": lambda n: isinstance(n, ast.If | ast.IfExp),
    "defaults": lambda n: isinstance(n, ast.arguments) and bool(n.defaults or any(n.kw_defaults)),
    "formatting": lambda n: isinstance(n, ast.BinOp) and isinstance(n.op, ast.Mod) and isinstance(n.left, ast.Constant),
    "handlers": lambda n: isinstance(n, ast.ExceptHandler),
    "items set": lambda n: isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store),
    "items taken": lambda n: isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Load) and not isinstance(n.slice, ast.Slice),
    "keywords": lambda n: isinstance(n, ast.keyword) and n.arg is not None,
    "loops": lambda n: isinstance(n, ast.For | ast.AsyncFor | ast.While),
    "membership": lambda n: isinstance(n, ast.Compare) and any(isinstance(op, ast.In | ast.NotIn) for op in n.ops),
    "raised errors": lambda n: isinstance(n, ast.Raise),
    "returned values": lambda n: isinstance(n, ast.Return) and n.value is not None,
    "slices": lambda n: isinstance(n, ast.Slice),
    "unpacking": lambda n: isinstance(n, ast.Tuple) and isinstance(n.ctx, ast.Store),
    "variable arguments": lambda n: isinstance(n, ast.arguments) and bool(n.vararg or n.kwarg),
}
CLAIMED = ("attributes set", "conditions", "defaults", "handlers", "items taken", "loops", "raised errors", "returned values")


@dataclasses.dataclass
class Source:
    """Items {"text": a function without its docstring, "constructs": [str], "depth": int, "text_pair": str, "label": str, "path": str}.

    `constructs` are the names of CONSTRUCTS that it has, `depth` is the number of nodes on the longest way down its syntax tree.
    `text_pair` claims that it has one of CLAIMED, and `label` says whether that is true, as it is half the time. The split follows from
    the file, see `data/interpreter.py`.
    """

    split: str

    def __post_init__(self):
        self._names = interpreter.code(self.split, "python_functions")

    def __len__(self) -> int:
        return len(_described(tuple(self._names)))

    def __getitem__(self, i: int) -> dict:
        text, constructs, depth, path = _described(tuple(self._names))[i]
        claim, true = _claim(constructs, i)
        label = "true" if true else "false"
        return {"text": text, "constructs": list(constructs), "depth": depth, "text_pair": claim, "label": label, "path": path}

    def fingerprint(self) -> str:
        return interpreter.fingerprint(self._names, "python_functions 1", self.split)


@functools.cache
def _described(names: tuple[str, ...]) -> list[tuple[str, tuple[str, ...], int, str]]:
    found, seen = [], set()
    for function in interpreter.functions(names):
        if function.node.end_lineno - function.node.lineno > CHARACTERS[1] // 10:
            continue
        statement = function.docstring()
        text = function.source(without=statement)
        if CHARACTERS[0] <= len(text) <= CHARACTERS[1] and text not in seen:
            seen.add(text)
            found.append((text, constructs(function.node), _depth(function.node, statement), function.place))
    return found


def constructs(tree: ast.AST) -> tuple[str, ...]:
    """Returns the names of the constructs that a function has, inner functions included, sorted."""
    nodes = list(ast.walk(tree))
    return tuple(name for name, is_one in CONSTRUCTS.items() if any(map(is_one, nodes)))


def _depth(tree: ast.AST, without: ast.AST | None) -> int:
    """Returns the number of nodes on the longest way down a tree; contexts such as Load, which have no text, are not counted."""
    return 1 + max((_depth(node, without) for node in _children(tree) if node is not without), default=0)


def _children(tree: ast.AST) -> Iterator[ast.AST]:
    return (node for node in ast.iter_child_nodes(tree) if not isinstance(node, ast.expr_context))


def _claim(there: tuple[str, ...], number: int) -> tuple[str, bool]:
    """Returns (claim, whether it is true), the same for the same number."""
    wanted, choice = counter.bits(np.arange(2), number).tolist()
    fitting = [name for name in CLAIMED if (name in there) == bool(wanted % 2)] or CLAIMED
    name = fitting[choice % len(fitting)]
    return f"It has {name}.", name in there
