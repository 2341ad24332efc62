"""The running interpreter's own library: about 11 MB of code and prose that every machine has, so that nothing must be downloaded.

Its .py, .txt and .rst files, without tests, installed packages, and what the build of this interpreter generated. A file's split follows
from a hash of its relative path: about 90% are for training, 5% each for validation and test.
"""

import ast
import dataclasses
import functools
import hashlib
import itertools
import os
import pathlib
import sys
import sysconfig
from collections.abc import Iterable, Iterator

from decoder_lab.core.errors import UserError
from decoder_lab.data import files

EXCLUDED_FOLDERS = ("test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "lib-dynload")
EXCLUDED_FILES = ("_sysconfigdata", "topics.py")  # a machine's own paths; and pydoc's topics, which python_stdlib takes one by one
SUFFIXES = (".py", ".txt", ".rst")
PERCENT = dict(validation=(0, 5), test=(5, 10), train=(10, 100))  # of the hash's range
ROOT = pathlib.Path(sysconfig.get_paths()["stdlib"])


def split_of(names: Iterable[str], split: str, source: str) -> list[str]:
    """Returns the names that belong to a split, sorted. Errors: UserError for an unknown split, and where there are none."""
    if split not in PERCENT:
        raise UserError(f'source {source}: split: got "{split}", expected one of {", ".join(files.SPLITS)}.')
    low, high = PERCENT[split]
    found = sorted(name for name in names if low <= _percentile(name) < high)
    if not found:
        raise UserError(f"source {source}: {ROOT} holds no source files; use another source, such as text.")
    return found


def _percentile(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 100


@functools.cache
def names() -> tuple[str, ...]:
    """Returns the relative paths of all files."""
    found = []
    for folder, folders, inside in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if f not in EXCLUDED_FOLDERS)
        paths = [pathlib.Path(folder, n) for n in inside if n.endswith(SUFFIXES) and not n.startswith(EXCLUDED_FILES)]
        found += [p.relative_to(ROOT).as_posix() for p in paths if p.stat().st_size and _is_utf8(p)]
    return tuple(found)


def read(name: str) -> str:
    """Returns a file's text."""
    return (ROOT / name).read_bytes().decode("utf-8")


def code(split: str, source: str) -> list[str]:
    """Returns the Python files of a split."""
    return split_of([name for name in names() if name.endswith(".py")], split, source)


@dataclasses.dataclass(frozen=True)
class Function:
    """A function or method: its file, that file's lines and tree, and its own node."""

    file: str
    lines: list[str]
    module: ast.Module
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def place(self) -> str:
        """File and line."""
        return f"{self.file}:{self.node.lineno}"

    def source(self, without: ast.AST | None = None) -> str:
        """Returns its text from `def` on, moved to the left margin, without blank lines and those of one statement."""
        left_out = range(without.lineno, without.end_lineno + 1) if without else ()
        kept = [self.lines[n - 1] for n in range(self.node.lineno, self.node.end_lineno + 1) if n not in left_out]
        margin = self.lines[self.node.lineno - 1][: self.node.col_offset]
        return "\n".join(line.removeprefix(margin).rstrip() for line in kept if line.strip())

    def parsed(self, without: ast.AST | None = None) -> tuple[str, ast.FunctionDef | ast.AsyncFunctionDef] | None:
        """Returns (source, its tree), None where the text cannot stand alone or columns are not characters (it is not ASCII)."""
        text = self.source(without)
        try:
            return (text, ast.parse(text).body[0]) if text.isascii() else None
        except SyntaxError:
            return None

    def docstring(self) -> ast.Expr | None:
        """Returns the statement that is its docstring, if it stands on lines of its own and something follows."""
        first, *rest = self.node.body
        if (
            not rest
            or not isinstance(first, ast.Expr)
            or not isinstance(first.value, ast.Constant)
            or not isinstance(first.value.value, str)
        ):
            return None
        return first if first.lineno > self.node.lineno and rest[0].lineno > first.end_lineno else None


def functions(names: Iterable[str]) -> Iterator[Function]:
    """Yields every function and method, in the order of the files and of their lines."""
    for name in names:
        text = read(name).removeprefix("\ufeff").replace("\r\n", "\n")
        try:
            tree = ast.parse(text)
        except SyntaxError:  # lib2to3 and others keep files of other Pythons
            continue
        lines = text.split("\n")
        for node in _definitions(tree):
            yield Function(name, lines, tree, node)


def _definitions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields the functions inside a node; only where statements can stand is looked into."""
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        inside = getattr(node, block, ())
        for child in inside if isinstance(inside, list) else ():
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield child
            yield from _definitions(child)


def offsets(text: str) -> list[int]:
    """Returns where each line of a text begins: `offsets(text)[node.lineno - 1] + node.col_offset` is a node's place in ASCII text."""
    return [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]


def fingerprint(names: Iterable[str], *settings: object) -> str:
    """Returns a hash of the files as they lie on this machine, of this Python, and of `settings`."""
    return files.fingerprint([ROOT / name for name in names], sys.version_info[:2], *settings)


def _is_utf8(path: pathlib.Path) -> bool:
    """A few old files declare another encoding; they are not read as something that they are not."""
    head = path.open("rb").read(256)
    return b"coding:" not in head or b"utf-8" in head.lower()
