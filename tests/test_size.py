"""Files and functions that can be read in one sitting."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "decoder_lab").rglob("*.py")) + sorted((ROOT / "experiments").rglob("*.py"))


def test_files_functions_and_classes_stay_short():
    long = []
    for path in FILES:
        text = path.read_text()
        name = path.relative_to(ROOT)
        if len(text.splitlines()) > 400:
            long.append(f"{name}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            limit = {ast.FunctionDef: 60, ast.AsyncFunctionDef: 60, ast.ClassDef: 200}.get(type(node))
            if limit and node.end_lineno - node.lineno + 1 > limit:
                long.append(f"{name}: {node.name} {node.end_lineno - node.lineno + 1} lines")
    assert not long, "\n".join(long)


def test_no_catch_all_module_and_no_silent_catch_all():
    assert not [p for p in FILES if p.stem in ("utils", "util", "helpers", "misc", "common")]
    silent = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
                if broad and not any(isinstance(n, ast.Raise) for n in ast.walk(node)):
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not silent, silent


def test_modules_and_public_functions_say_what_they_do():
    bare = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        if not path.read_text().strip():
            continue
        if not ast.get_docstring(tree):
            bare.append(str(path.relative_to(ROOT)))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node):
                if node.name not in ("get_config", "problems"):
                    bare.append(f"{path.relative_to(ROOT)}: {node.name}")
    assert not bare, "\n".join(bare)
