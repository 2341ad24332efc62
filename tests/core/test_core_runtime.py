"""Properties of the process around a run: stopped politely, and written down."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from decoder_lab.core import runtime

ROOT = pathlib.Path(__file__).parents[2]


def child(code, *arguments):
    """Starts Python code and returns the process once it has printed a line."""
    command = [sys.executable, "-u", "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


STEPS = """
import sys, time
from decoder_lab.core import runtime
with runtime.StopSignals() as stop:
    print("ready")
    while not stop.requested:
        time.sleep(0.01)
    print("saving", stop.requested)
    if len(sys.argv) > 1:
        time.sleep(60)
sys.exit(runtime.EXIT_RESUMABLE)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_step_finish(number):
    process = child(STEPS)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert out == f"saving {number.name}\n" and "finishing this step" in err
    assert process.returncode == runtime.EXIT_RESUMABLE == 75


def test_a_second_ctrl_c_ends_the_process_at_once():
    process = child(STEPS, "slowly")
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saving SIGINT\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGINT


def test_signals_mean_afterwards_what_they_meant_before():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with runtime.StopSignals() as stop:
        assert stop.requested is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested == "SIGINT"
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_run_is_written_down_each_time_it_begins(tmp_path):
    for digest in ("first", "second"):
        runtime.begin(tmp_path, '{"lr": 0.1}', digest, ["main.py", "--prompt=two words"])
    assert json.loads((tmp_path / "config.json").read_text()) == {"lr": 0.1}
    entries = [json.loads(line) for line in (tmp_path / runtime.HISTORY).read_text().splitlines()]
    assert [e["config_digest"] for e in entries] == ["first", "second"]
    assert entries[0]["command"].endswith("main.py '--prompt=two words'")
    assert entries[0]["versions"]["jax"] == jax.__version__ and entries[0]["python"] == sys.version.split()[0]


def git(folder, *arguments):
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *names, "-C", str(folder), *arguments], check=True, capture_output=True)


def test_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    assert runtime.git_commit(tmp_path) is None
    git(tmp_path, "init")
    assert runtime.git_commit(tmp_path) is None  # nothing committed yet
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = runtime.git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "code.py").write_text("2")
    assert runtime.git_commit(tmp_path) == commit + "+changes"
    monkeypatch.setenv("PATH", "")
    assert runtime.git_commit(tmp_path) is None


CACHED = """
from decoder_lab.core import runtime
print("ready")
folder = runtime.compilation_cache()
import jax
jax.jit(lambda x: x * 3 + 1)(1.0)
print(folder, len(list(folder.iterdir())))
"""


def test_every_compilation_is_kept_in_the_labs_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv(runtime.CACHE_VARIABLE, str(tmp_path))
    out, err = child(CACHED).communicate(timeout=60)
    folder, files = out.split()
    assert folder == str(tmp_path / "xla") and int(files) > 0, err


def test_runtime_does_not_import_jax():
    code = "import sys; from decoder_lab.core import runtime, clock, writer; print(sorted({'jax', 'numpy', 'orbax'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out == "[]\n"


def test_a_prepared_process_seldom_looks_for_cyclic_garbage():
    code = "import gc; from decoder_lab.core import runtime; print('ready'); runtime.prepare('float32'); print(gc.get_threshold())"
    out, err = child(code).communicate(timeout=120)
    assert out == f"{runtime.COLLECT_AFTER}\n", err


def test_memory_from_shapes_alone():
    params = jax.eval_shape(lambda: {"w": jnp.zeros((10, 5)), "half": jnp.zeros(3, jnp.bfloat16)})
    moments = (params, params, jax.ShapeDtypeStruct((), jnp.int32))
    got = runtime.memory_estimate(params, moments, ema=True)
    assert got == {"params": 206, "optimizer": 416, "gradients": 206, "ema": 206, "total": 1034}
    assert runtime.memory_estimate(params, ())["total"] == 412


def test_device_summary_says_what_computes():
    text = runtime.device_summary()
    assert text.startswith(f"{len(jax.devices())} x {jax.devices()[0].device_kind}") and jax.__version__ in text
