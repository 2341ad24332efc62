"""Every experiment builds, has its full size checked without memory, and trains two steps in its smoke size."""

import json
import pathlib

import jax
import pytest

from decoder_lab.core import config as config_lib
from decoder_lab.training import experiment as experiments
from decoder_lab.training import loop

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIGS = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "experiments").rglob("*.py"))


@pytest.fixture(autouse=True)
def small_world(monkeypatch, tmp_path):
    """The project's folder as working directory, and a small text where a config wants one that is not in the repository."""
    monkeypatch.chdir(ROOT)
    text = "".join(f"{n} green bottles hanging on the wall, and if one should fall...\n" for n in range(400))
    (tmp_path / "train.txt").write_text(text)
    (tmp_path / "val.txt").write_text(text[:4000])


def load(path, tmp_path, extra):
    data = f",data={tmp_path}" if "data=" in (ROOT / path).read_text() and "shakespeare" in path else ""
    return config_lib.load(f"{path}:{extra}{data}".rstrip(":"))


@pytest.mark.parametrize("path", CONFIGS)
def test_opens_with_its_command(path):
    text = (ROOT / path).read_text()
    assert text.startswith('"""') and path in text.split('"""')[1], "a config opens with the command that runs it"
    doc = text.split('"""')[1]
    assert "easured" in doc and ("ardware" in doc or "hardware" in doc), "a config says hardware, time, and what was measured"


@pytest.mark.parametrize("path", CONFIGS)
def test_full_size_builds_without_memory(path, tmp_path):
    experiment = experiments.Experiment(load(path, tmp_path, ""), tmp_path / "run")
    model = experiments.make_model(experiment.config, vocab_size=300)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8), "int32"))
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
