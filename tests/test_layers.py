"""The house keeps its floors: a module imports only from floors below it or from its own room, and never a plug-in of its own kind."""

import ast
import pathlib

from decoder_lab.core import lookup

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "decoder_lab"
FLOORS = {
    "core": 0,
    "ops": 1,
    "metrics": 1,
    "layers": 2,
    "optim": 2,
    "parallel": 3,
    "data": 2,
    "adapters": 3,
    "encoders": 3,
    "decoders": 3,
    "models": 4,
    "decoding": 4,
    "tasks": 5,
    "interop": 5,
    "evaluators": 6,
    "checkpoint": 6,
    "training": 7,
    "serving": 7,
    "report": 7,
    "commands": 8,
    "main": 9,
    "benchmark": 9,
    "sweep": 9,
    "compare": 9,
}
HEAVY = {"tensorflow", "torch", "clu"}


def imports(path):
    """Yields every dotted name that a file imports, inside functions too; `from a import b` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def test_every_room_has_a_floor():
    assert {room_of(p) for p in FILES} <= FLOORS.keys()


def test_imports_go_down():
    wrong = []
    for path in FILES:
        room = room_of(path)
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "decoder_lab" or len(parts) < 2 or parts[1] == "__version__":
                continue
            if parts[1] != room and not FLOORS[parts[1]] < FLOORS[room]:
                wrong.append(f"{path.relative_to(ROOT)} (floor {FLOORS[room]}) imports {name} (floor {FLOORS[parts[1]]})")
    assert not wrong, "\n".join(wrong)


def test_no_plugin_imports_another_of_its_kind():
    wrong = []
    for kind, (folder, _) in lookup.KINDS.items():
        for name in lookup.names(kind) if folder else ():
            package = f"decoder_lab.{folder.replace('/', '.')}"
            others = {f"{package}.{other}" for other in lookup.names(kind) if other != name}
            for found in imports(PACKAGE / folder / f"{name}.py"):
                if any(found == other or found.startswith(other + ".") for other in others):
                    wrong.append(f"{kind} {name} imports {found}")
    assert not wrong, "\n".join(wrong)


def test_nobody_imports_what_the_lab_does_without():
    found = {f"{p.relative_to(ROOT)}: {n}" for p in FILES for n in imports(p) if n.split(".")[0] in HEAVY}
    allowed = {f for f in found if f.startswith("decoder_lab/benchmark/") and ": torch" in f}
    assert not found - allowed


def test_every_import_is_declared():
    """A fresh environment has what setup.py names, nothing else."""
    text = (ROOT / "setup.py").read_text()
    import sys

    names = {
        "absl": "absl-py",
        "ml_collections": "ml-collections",
        "orbax": "orbax-checkpoint",
        "tensorflow_datasets": "tensorflow-datasets",
    }
    for path in FILES + sorted((ROOT / "experiments").rglob("*.py")):
        for name in imports(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ("decoder_lab", "experiments"):
                continue
            wanted = names.get(top, top)
            assert f'"{wanted}' in text, f"{path.relative_to(ROOT)} imports {top}, which setup.py does not declare"
