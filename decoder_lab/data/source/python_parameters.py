"""Questions whose answer is a parameter's name, on functions of the running interpreter's own library: extractive question answering
that needs no download. Every answer is the only right one, by the parser's word."""

import ast
import collections
import dataclasses
import functools
from collections.abc import Iterator

from decoder_lab.data import counter, interpreter

LONGEST = 1000  # characters of a function
PARAMETERS = (2, 12)
QUESTIONS = 4  # of one function at most
ORDER = ("first", "second", "third", "fourth", "fifth", "sixth")
DEFAULTS = ("None", "False", "True", "0", "1")  # values that are asked for where no parameter has them


@dataclasses.dataclass
class Source:
    """Items {"id", "question", "context": str, "answers": [{"text": str, "start": int}]}; `start` counts characters of the context.

    Attributes:
      no_answer: whether there are questions without an answer too, one for each fourth function.
    """

    split: str
    no_answer: bool = False

    def __post_init__(self):
        self._names = interpreter.code(self.split, "python_parameters")

    def __len__(self) -> int:
        return len(_asked(tuple(self._names), self.no_answer))

    def __getitem__(self, i: int) -> dict:
        name, question, context, answer, start = _asked(tuple(self._names), self.no_answer)[i]
        answers = [{"text": answer, "start": start}] if answer else []
        return {"id": name, "question": question, "context": context, "answers": answers}

    def fingerprint(self) -> str:
        return interpreter.fingerprint(self._names, "python_parameters 1", self.split, self.no_answer)


@functools.cache
def _asked(names: tuple[str, ...], no_answer: bool) -> list[tuple[str, str, str, str, int]]:
    found, seen = [], set()
    for function in interpreter.functions(names):
        if function.node.end_lineno - function.node.lineno > LONGEST // 20 or len(_parameters(function.node)) < PARAMETERS[0]:
            continue
        parsed = function.parsed()
        if not parsed or len(parsed[0]) > LONGEST or parsed[0] in seen:
            continue
        text, node = parsed
        parameters = _parameters(node)
        if not PARAMETERS[0] <= len(parameters) <= PARAMETERS[1]:
            continue
        seen.add(text)
        starts = interpreter.offsets(text)
        place = {p.arg: starts[p.lineno - 1] + p.col_offset for p in parameters}
        number = len(seen)
        pairs = questions(node)
        order = counter.permutation(len(pairs), number)[:QUESTIONS]
        chosen = [pairs[i] for i in sorted(order.tolist())]
        if no_answer and number % 4 == 0:
            absent = [value for value in DEFAULTS if value not in [ast.unparse(v) for v in _defaults(node).values()]]
            chosen += [(f"Which parameter has the default value {absent[number % len(absent)]}?", "")] if absent else []
        found += [(f"{function.place}:{k}", q, text, answer, place.get(answer, 0)) for k, (q, answer) in enumerate(chosen)]
    return found


def questions(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[tuple[str, str]]:
    """Returns (question, parameter) of all questions on a function that exactly one parameter answers."""
    fitting: dict[str, set[str]] = collections.defaultdict(set)
    for question, name in _facts(node):
        fitting[question].add(name)
    return sorted((question, *names) for question, names in fitting.items() if len(names) == 1)


def _facts(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, str]]:
    names = [p.arg for p in _parameters(node)]
    for word, name in zip(ORDER, [n for n in names if n not in ("self", "cls")], strict=False):
        yield f"Which parameter comes {word}?", name
    yield "Which parameter comes last?", names[-1]
    for name, value in _defaults(node).items():
        yield f"Which parameter has the default value {ast.unparse(value)}?", name
    if node.args.vararg:
        yield "Which parameter takes the remaining positional arguments?", node.args.vararg.arg
    if node.args.kwarg:
        yield "Which parameter takes the remaining keyword arguments?", node.args.kwarg.arg
    for part in [inner for statement in node.body for inner in ast.walk(statement)]:
        for question, used in _uses(part):
            if isinstance(used, ast.Name) and used.id in names and used.id not in ("self", "cls"):
                yield question, used.id


def _uses(part: ast.AST) -> Iterator[tuple[str, ast.AST | None]]:
    """Yields (question, the expression that answers it if it is a parameter)."""
    if isinstance(part, ast.Call) and isinstance(part.func, ast.Name | ast.Attribute):
        for argument in part.args:
            yield f"Which parameter is passed to {ast.unparse(part.func)}?", argument
    elif isinstance(part, ast.Attribute):
        yield f"Of which parameter is the attribute {part.attr} used?", part.value
    elif isinstance(part, ast.Return):
        yield "Which parameter is returned?", part.value
    elif isinstance(part, ast.For | ast.AsyncFor | ast.comprehension):
        yield "Which parameter is looped over?", part.iter
    elif isinstance(part, ast.Subscript):
        yield "Which parameter is indexed?", part.value
    elif isinstance(part, ast.Compare) and isinstance(part.comparators[0], ast.Constant):
        yield f"Which parameter is compared with {ast.unparse(part.comparators[0])[:40]}?", part.left


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """Returns the parameters as they stand in the text."""
    a = node.args
    return [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs, *([a.kwarg] if a.kwarg else [])]


def _defaults(node: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, ast.expr]:
    a = node.args
    positional = [*a.posonlyargs, *a.args]
    found = dict(zip((p.arg for p in positional[len(positional) - len(a.defaults) :]), a.defaults, strict=True))
    return found | {p.arg: value for p, value in zip(a.kwonlyargs, a.kw_defaults, strict=True) if value is not None}
