"""Every experiment says what was measured, builds, has its full size checked without memory, and trains two steps at a small size."""

import ast
import functools
import json
import pathlib
import re

import jax
import pytest
import small_config
import small_data

from decoder_lab.core import config as config_lib
from decoder_lab.data import interpreter
from decoder_lab.parallel import mesh as meshes
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments").rglob("*.py"))
PACKAGES = ("asyncio/", "email/", "importlib/", "xml/", "unittest/")  # enough of the interpreter's library for every source made of it


@pytest.fixture(scope="module", autouse=True)
def fewer_files():
    """Parsing all of the interpreter's library for every source would take minutes."""
    names = tuple(name for name in interpreter.names() if name.startswith(PACKAGES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "names", lambda: names)
        yield


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Most of the time goes into compiling programs that run for two steps; several devices have their own tests."""
    monkeypatch.setattr(meshes, "make_mesh", functools.partial(meshes.make_mesh, jax.devices()[:1]))


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Path of an experiment -> (its complete config, the same at a small size), on small data where it reads a folder."""

    @functools.cache
    def loaded(path):
        folder = tmp_path_factory.mktemp("data")
        small_data.MAKERS.get(path, lambda folder: None)(folder)
        arguments = [f"data={folder}"] if path in small_data.MAKERS else []
        config = config_lib.load(f"{path}:{','.join(arguments)}".rstrip(":"))
        return config, small_config.small(config, folder)

    return loaded


@pytest.mark.parametrize("path", CONFIGS)
def test_opens_with_its_command_and_its_numbers(path):
    """The last cell of every row of the table is a number, or says that it was not measured; without a table both stand in the text."""
    doc = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert f"--config={path}" in doc, "a config opens with the command that runs it"
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in doc.splitlines() if line.startswith("|")]
    if not table:
        found = re.search(r"Hardware: .+ Time: .+ Measured: .+", " ".join(doc.split()))
        assert found, "a config says hardware, time, and what was measured"
        return
    head, _, *rows = table
    assert "hardware" in head and head[-1].startswith("measured")
    assert rows, "the table says what was measured, or that nothing was"
    for row in rows:
        assert len(row) == len(head), f"a cell for each of {head}: {row}"
        assert re.search(r"\d|not (yet )?measured", row[-1]), f"a number, or: not measured; got {row[-1]!r}"


@pytest.mark.parametrize("path", CONFIGS)
def test_full_size_builds_without_memory(path, load, tmp_path):
    """The full model under the task of the small size, whose data are small: labels and added tokens are its."""
    full, config = load(path)
    small = experiments.Experiment(config, tmp_path / "run", report=lambda line: None)
    sizes = small.sizes | {name: max(300, small.sizes[name]) for name in ("vocab_size", "source_vocab_size")}
    model = experiments.make_model(full, **sizes)
    shapes = jax.eval_shape(lambda key: model.init(key, small.task.dummy(), True, method=small.task.forward), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) > 1000


@pytest.mark.parametrize("path", CONFIGS)
def test_small_size_trains_two_steps(path, load, tmp_path):
    _, config = load(path)
    assert config.total_steps == 2
    workdir = tmp_path / "run"
    assert loop.train(experiments.Experiment(config, workdir, report=lambda line: None), workdir) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} >= {2}
    assert any(config.checkpoint.metric in line for line in lines), "the number that the best checkpoint is chosen by"
    assert any("val/loss" in line for line in lines)
