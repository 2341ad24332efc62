"""Every experiment builds, has its full size checked without memory, and trains two steps in its smoke size."""

import json
import pathlib

import jax
import pytest
import small_data

from decoder_lab.core import config as config_lib
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments").rglob("*.py"))


@pytest.fixture(autouse=True)
def project_folder(monkeypatch):
    monkeypatch.chdir(ROOT)


def load(path, tmp_path, extra):
    """The config, with a small data set of the right format where it wants one that is not in the repository."""
    if path in small_data.MAKERS:
        small_data.MAKERS[path](tmp_path / "data")
        extra = f"{extra},data={tmp_path / 'data'}".lstrip(",")
    return config_lib.load(f"{path}:{extra}".rstrip(":"))


@pytest.mark.parametrize("path", CONFIGS)
def test_opens_with_its_command(path):
    text = (ROOT / path).read_text()
    assert text.startswith('"""') and path in text.split('"""')[1], "a config opens with the command that runs it"
    doc = text.split('"""')[1]
    assert "easured" in doc and ("ardware" in doc or "hardware" in doc), "a config says hardware, time, and what was measured"


@pytest.mark.parametrize("path", CONFIGS)
def test_full_size_builds_without_memory(path, tmp_path):
    """The full model under the task of the smoke size, whose data are small: labels and added tokens are its."""
    smoke = experiments.Experiment(load(path, tmp_path, "smoke"), tmp_path / "run", report=lambda line: None)
    sizes = smoke.sizes | {name: max(300, smoke.sizes[name]) for name in ("vocab_size", "source_vocab_size")}
    model = experiments.make_model(load(path, tmp_path, ""), **sizes)
    shapes = jax.eval_shape(lambda key: model.init(key, smoke.task.dummy(), True, method=smoke.task.forward), jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) > 1000


@pytest.mark.parametrize("path", CONFIGS)
def test_smoke_size_trains_two_steps(path, tmp_path):
    config = load(path, tmp_path, "smoke")
    assert config.total_steps == 2
    workdir = tmp_path / "run"
    assert loop.train(experiments.Experiment(config, workdir, report=lambda line: None), workdir) == 0
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"] for line in lines} >= {2}
    assert any("val/loss" in line for line in lines)
