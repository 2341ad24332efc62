"""Functions of the running interpreter's own library with the role of each identifier: a tagging task that needs no download.

The roles come from Python's parser. A name that is not bound in the function is what the module binds it to, which the words do not show.
"""

import ast
import builtins
import dataclasses
import functools
import re
from collections.abc import Iterator

from decoder_lab.data import interpreter

WORDS = (8, 80)  # of a function
LONGEST = 12  # characters of a string that is shown; longer ones are cut
STRING = r"""[rRbBuUfF]{0,2}(?:'{3}(?:\\.|[^\\])*?'{3}|"{3}(?:\\.|[^\\])*?"{3}|'(?:\\.|[^\\'\n])*'|"(?:\\.|[^\\"\n])*")"""
OPERATOR = r"\*\*=|//=|>>=|<<=|\.\.\.|->|:=|[-+*/%@&|^=<>!]=|\*\*|//|<<|>>|[^\s\w]"
TOKEN = re.compile(rf"(?s:(?P<string>{STRING}))|(?P<comment>\#[^\n]*|\\\n)|[A-Za-z_]\w*|\d[\w.]*|{OPERATOR}")
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclasses.dataclass
class Source:
    """Items {"words": [str], "tags": [str], "label": str, "path": str}: the tokens of a function without docstring and comments, BIO tags
    of roles, and what the function is for.

    Roles: function, class (where they are defined or, at the module's top, meant), parameter, local, attribute, method (an attribute that
    is called), keyword (an argument's name in a call), builtin, global, and import: a name that the module imports, together with the
    attributes behind it (`os.path.join` is one span). All else is O.
    Labels: query (it returns a value), command (it does not), change (it returns a value and sets an attribute, an item or a name that
    outlives it), generator, and stub (there is nothing but pass, ... or an error).
    """

    split: str

    def __post_init__(self):
        self._names = interpreter.code(self.split, "python_identifiers")

    def __len__(self) -> int:
        return len(_tagged(tuple(self._names)))

    def __getitem__(self, i: int) -> dict:
        words, tags, label, path = _tagged(tuple(self._names))[i]
        return {"words": list(words), "tags": list(tags), "label": label, "path": path}

    def fingerprint(self) -> str:
        return interpreter.fingerprint(self._names, "python_identifiers 2", self.split)


@functools.cache
def _tagged(names: tuple[str, ...]) -> list[tuple[tuple[str, ...], tuple[str, ...], str, str]]:
    found, seen = [], set()
    module, outside = None, {}
    for function in interpreter.functions(names):
        if function.node.end_lineno - function.node.lineno > WORDS[1] // 2:
            continue
        if function.module is not module:
            module, outside = function.module, _module_roles(function.module)
        parsed = function.parsed(without=function.docstring())
        item = parsed and tag(*parsed, outside)
        if item and WORDS[0] <= len(item[0]) <= WORDS[1] and item not in seen:
            seen.add(item)
            found.append((*item, purpose(parsed[1]), function.place))
    return found


def purpose(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Returns what a function without its docstring is for: "query", "command", "change", "generator" or "stub"."""
    (first, *rest), nodes = tree.body, list(_own(tree))
    if not rest and (isinstance(first, ast.Pass | ast.Raise) or (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant))):
        return "stub"
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes):
        return "generator"
    values = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
    if all(isinstance(value, ast.Constant) and value.value is None for value in values):
        return "command"
    return "change" if any(map(_sets, nodes)) else "query"


def _sets(node: ast.AST) -> bool:
    """Whether a node sets, or deletes, something that lives on after the function."""
    if isinstance(node, ast.Attribute | ast.Subscript):
        return isinstance(node.ctx, ast.Store | ast.Del)
    return isinstance(node, ast.Global | ast.Nonlocal)


def _own(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields the nodes of a function that are not of functions and classes inside it."""
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, Definition | ast.Lambda):
            yield child
            yield from _own(child)


def _module_roles(module: ast.Module) -> dict[str, str]:
    """Returns name -> role of what a module binds at its top."""
    roles = {}
    for node in module.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            roles |= {(alias.asname or alias.name.split(".")[0]): "import" for alias in node.names}
        elif isinstance(node, Definition):
            roles[node.name] = "class" if isinstance(node, ast.ClassDef) else "function"
    return roles


def tag(text: str, tree: ast.AST, outside: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Returns (words, tags) of a function; None where the parser's places are not those of the words (nested f-strings).

    Args:
      text: the function, ASCII.
      tree: its node, parsed from `text`.
      outside: name -> role of names that the module binds.
    """
    tokens = [m for m in TOKEN.finditer(text) if not m["comment"]]
    number_at = {m.start(): i for i, m in enumerate(tokens)}
    end_at = {m.end(): i for i, m in enumerate(tokens)}
    tags = ["O"] * len(tokens)
    for start, end, role in sorted(_spans(text, tree, outside), key=lambda s: (s[0], -s[1])):
        first, last = number_at.get(start), end_at.get(end)
        if first is None or last is None:
            return None
        if tags[first] == "O":  # otherwise a part of a longer span
            tags[first : last + 1] = [f"B-{role}"] + [f"I-{role}"] * (last - first)
    words = tuple(_shown(m[0]) if m["string"] else m[0] for m in tokens)
    return words, tuple(tags)


def _shown(string: str) -> str:
    return string if len(string) <= LONGEST and " " not in string and "\n" not in string else '"..."'


def _spans(text: str, tree: ast.AST, outside: dict[str, str]) -> Iterator[tuple[int, int, str]]:
    """Yields (start, end, role) of the identifiers of a function."""
    starts = interpreter.offsets(text)
    nodes = list(_walk(tree))
    roles = outside | _bound(nodes)
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        start = starts[node.lineno - 1] + node.col_offset if hasattr(node, "lineno") else 0
        end = starts[node.end_lineno - 1] + node.end_col_offset if hasattr(node, "lineno") else 0
        if isinstance(node, ast.Name):
            yield start, end, roles.get(node.id) or ("builtin" if hasattr(builtins, node.id) else "global")
        elif isinstance(node, ast.Attribute):
            whole = _root(node)
            if isinstance(whole, ast.Name) and roles.get(whole.id) == "import":
                yield start, end, "import"
            else:
                yield end - len(node.attr), end, "method" if id(node) in called else "attribute"
        elif isinstance(node, ast.arg):
            yield start, start + len(node.arg), "parameter"
        elif isinstance(node, ast.keyword) and node.arg:
            yield start, start + len(node.arg), "keyword"
        elif isinstance(node, Definition):
            found = re.compile(r"(?:async\s+)?(?:def|class)\s+(\w+)").match(text, start)
            yield *found.span(1), "class" if isinstance(node, ast.ClassDef) else "function"
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield *re.compile(r"from\s+\.*\s*([\w.]+)").match(text, start).span(1), "import"
        elif isinstance(node, ast.alias) and node.name != "*":
            yield start, start + len(node.name), "import"
            if node.asname:
                yield end - len(node.asname), end, "import"
        elif isinstance(node, ast.ExceptHandler) and node.name:
            after = starts[node.type.end_lineno - 1] + node.type.end_col_offset
            yield *re.compile(r"[\s)]*as\s+(\w+)").match(text, after).span(1), "local"
        elif isinstance(node, ast.Global | ast.Nonlocal):
            for found in re.compile(r"\w+").finditer(text, text.index(" ", start), end):
                yield *found.span(), roles.get(found[0]) or "global"


def _root(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields all nodes but those inside f-strings, which are one word."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not isinstance(child, ast.JoinedStr):
            yield from _walk(child)


def _bound(nodes: list[ast.AST]) -> dict[str, str]:
    """Returns name -> role of what a function binds, the functions inside it included."""
    names = {node.id: "local" for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    names |= {node.name: "local" for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    names |= {alias.asname or alias.name.split(".")[0]: "import" for alias in nodes if isinstance(alias, ast.alias)}
    names |= {node.name: "class" if isinstance(node, ast.ClassDef) else "function" for node in nodes if isinstance(node, Definition)}
    names |= {node.arg: "parameter" for node in nodes if isinstance(node, ast.arg)}
    return names | {name: "global" for node in nodes if isinstance(node, ast.Global) for name in node.names}
