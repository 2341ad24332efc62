"""Each slot has threads or devices of its own, and so have the slots of several processes."""

import time

import pytest
import sweep_fakes as fakes

from decoder_lab.core.errors import UserError
from decoder_lab.sweep import processes, slots
from decoder_lab.sweep.folder import Folder


def test_threads_are_shared_out_between_slots(tmp_path, monkeypatch):
    monkeypatch.delenv("NPROC", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    spec, folder = fakes.config_file(tmp_path), tmp_path / "sweep"
    assert fakes.sweep(f"--config={spec}", "--seeds=2", f"--workdir={folder}", "--slots=2", "--no_table") == 0
    threads = max(1, slots.cores() // 2)
    assert (folder / "runs" / "seed=1" / "starts").read_text().split() == ["0", str(threads)]


def test_slots_have_devices_of_their_own(tmp_path, monkeypatch):
    plan = lambda *a, **k: [dict(s.environment) for s in slots.plan(*a, **k)]  # noqa: E731
    assert plan(0, ["0", "1"], 8, {}) == [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    assert plan(2, ["4", "5", "6", "7"], 8, {}) == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    assert plan(0, ["4", "5", "6", "7"], 8, {}, 2) == [{"CUDA_VISIBLE_DEVICES": "4,5"}, {"CUDA_VISIBLE_DEVICES": "6,7"}]
    with pytest.raises(UserError, match="more than the 2 GPUs"):
        plan(3, ["0", "1"], 8, {})
    with pytest.raises(UserError, match="there is no GPU"):
        plan(1, [], 8, {}, 1)
    assert plan(4, [], 8, {})[3]["NPROC"] == "2" and plan(4, [], 2, {"NPROC": "16"})[0]["OMP_NUM_THREADS"] == "1"
    assert "NPROC" not in plan(4, [], 2, {"NPROC": "16"})[0], "what the user chose stays"
    assert plan(4, [], 2, {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"})[0] == {} == plan(1, [], 2, {})[0]
    assert slots.visible_gpus({"CUDA_VISIBLE_DEVICES": "3,GPU-ab"}) == ["3", "GPU-ab"]
    assert slots.visible_gpus({"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "0"}) == []
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert slots.visible_gpus({}) == ["0", "1"]
    program.write_text("#!/bin/sh\nexit 9\n")
    assert slots.visible_gpus({}) == []


def test_two_processes_take_different_devices(tmp_path, monkeypatch, capsys):
    """A slot whose device another process has waits, and the lock lives as long as the run, also where the sweep is killed."""
    spec, folder = fakes.config_file(tmp_path, steps=1), tmp_path / "sweep"
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-a1)'\necho 'GPU 1: NVIDIA H100 (UUID: GPU-b2)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-a")
    assert [slot.devices for slot in slots.here(0, 0)] == [("GPU-b2",), ("GPU-a1",)]
    (held,) = Folder(folder).claim_devices(["GPU-b2"])
    assert Folder(folder).claim_devices(["GPU-a1", "GPU-b2"]) is None
    assert fakes.sweep(f"--config={spec}", "--seeds=3", f"--workdir={folder}", "--no_table") == 0
    out = capsys.readouterr().out
    assert out.count("in slot 1 (GPU GPU-a)") == 3 and "in slot 0" not in out
    run = processes.Process(["/bin/sleep", "30"], tmp_path / "log", {}, [held.file])
    held.release()
    assert Folder(folder).claim_devices(["GPU-b2"]) is None, "the run still has it"
    run.stop()
    deadline = time.monotonic() + 20
    while run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert Folder(folder).claim_devices(["GPU-b2"])
