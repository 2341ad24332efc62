import jax.numpy as jnp
import numpy as np
import pytest

from decoder_lab.checkpoint import __main__ as program
from decoder_lab.checkpoint import inspect
from decoder_lab.checkpoint.saver import Saver
from decoder_lab.core.errors import UserError
from decoder_lab.interop import safetensors
from decoder_lab.interop.safetensors import Lazy


@pytest.fixture
def run(tmp_path):
    """A run's folder with two checkpoints, without any config."""
    params = {f"layer_{i}": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4, jnp.bfloat16)} for i in range(3)}
    saver = Saver(tmp_path / "run" / "checkpoints", keep=2, report=lambda line: None)
    for step in (10, 20):
        saver.save(step, {"params": params, "step": jnp.int32(step)}, meta={}, metrics={"val/loss": 1.5}, wait=True)
    return tmp_path / "run"


def test_a_run_is_shown_without_its_config(run, capsys):
    """Layers share a line, or have one each; what is inside adds up."""
    assert program.main(["inspect", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "checkpoint of step 20" in shown and "steps there: 10, 20" in shown and "val/loss: 1.5" in shown
    assert "params/layer_#/kernel (3)" in shown and "3x4" in shown and "bfloat16" in shown
    assert "7 arrays, 49 numbers, 172 B" in shown
    assert inspect.described(run, every=True).count("kernel") == 3
    assert "checkpoint of step 10" in inspect.described(run, "10")
    assert "checkpoint of step 10" in inspect.described(run / "checkpoints" / "10")


def test_files_and_directories_of_safetensors_are_shown(tmp_path):
    tensors = {"a.weight": Lazy.of(np.ones((2, 2), np.float16)), "b": Lazy.of(np.ones((), np.float32))}
    safetensors.write_directory(tmp_path / "m", tensors, shard_bytes=8)
    for path in (tmp_path / "m", next((tmp_path / "m").glob("model-00001*"))):
        assert "a.weight" in inspect.described(path) and "float16" in inspect.described(path)
    assert "2 arrays, 5 numbers, 12 B" in inspect.described(tmp_path / "m")


def test_anything_else_says_what_is_there(run, capsys):
    with pytest.raises(UserError, match="holds no checkpoint 30. Known: 10, 20"):
        inspect.described(run, "30")
    (run / "empty").mkdir()
    assert program.main(["inspect", str(run / "empty")]) == 2
    assert "it holds nothing" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is nothing at"):
        inspect.described(run / "nowhere")
