"""The process that a run lives in: compilation cache, logs, stop signals, and the record of what ran where.

JAX is imported only inside functions, so that a config can be refused before JAX starts.
"""

import functools
import gc
import json
import logging
import os
import pathlib
import platform
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from types import FrameType
from typing import Any

EXIT_RESUMABLE = 75  # sysexits.h, EX_TEMPFAIL: stopped by a signal with everything saved; the same command goes on
EXIT_IN_USE = 69  # EX_UNAVAILABLE: another process works in the workdir; the same command may go on later
CACHE_VARIABLE = "DECODER_LAB_CACHE"
HISTORY = "history.jsonl"
ENDED = "ended.json"
RECORDED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "decoder_lab")
GIT_SECONDS = 5
COLLECT_AFTER = (100_000, 20, 50)  # Python collects after (700, 10, 10)
# asks the system for a SIGTERM at its parent's end (PR_SET_PDEATHSIG), then becomes the run; a function between fork and exec would do it
# too, but not safely in a process with threads
LEASH = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})
if os.getppid() != int(sys.argv[1]):
    os._exit({EXIT_RESUMABLE})
os.execvp(sys.argv[2], sys.argv[2:])
"""


def begin(workdir: pathlib.Path, config_json: str, digest: str, argv: Iterable[str]) -> dict[str, Any]:
    """Writes down that a run begins or goes on: config.json, and a line more in history.jsonl, which it returns."""
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / ENDED).unlink(missing_ok=True)
    temporary = workdir / ".config.json.writing"
    temporary.write_text(config_json, encoding="utf-8")
    temporary.replace(workdir / "config.json")
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join([pathlib.Path(sys.executable).name, *argv]),
        "directory": os.getcwd(),
        "host": socket.gethostname(),
        "config_digest": digest,
        "git": git_commit(),
        **versions(),
    }
    with open(workdir / HISTORY, "a", encoding="utf-8") as f:
        f.write(json.dumps(entry) + "\n")
    return entry


def end(workdir: pathlib.Path, exit_code: int) -> None:
    """Writes down, in ended.json, that a run has come to its end, or stopped with everything saved; the next `begin` takes it away."""
    temporary = workdir / f".{ENDED}.writing"
    temporary.write_text(json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "exit_code": exit_code}) + "\n", encoding="utf-8")
    temporary.replace(workdir / ENDED)


def prepare(dtype: str) -> None:
    """Prepares the process before JAX is imported: quiet logs, compilation cache, and float32 products that are float32.

    GPUs and TPUs would otherwise round the factors of float32 products to 10 or 7 bits of mantissa.
    """
    quiet_logs()
    collect_rarely()
    compilation_cache()
    import jax

    if dtype == "float32" and jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", "highest")


def collect_rarely() -> None:
    """Lets the collector of cyclic garbage run a hundred times less often: imports and tracing make a million objects that stay.

    It walked them over and over, for 0.5 CPU-seconds of the 3.5 that a small model needs to its first step.
    """
    gc.set_threshold(*COLLECT_AFTER)


def prefer_huge_pages() -> None:
    """Starts this process again, once, with glibc's malloc asking for huge pages; call it first of all, from a program's entry point.

    XLA's CPU backend maps its working memory anew at every step: at 4 KB a page that was a third of a small model's step, spent in the
    kernel. The setting is read only when a process starts, hence the exec (the process id stays). It does nothing off Linux, with a libc
    that lacks it, where GLIBC_TUNABLES is set already, or with DECODER_LAB_HUGE_PAGES=0.
    """
    libc, version = platform.libc_ver()
    has_it = sys.platform == "linux" and libc == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    if has_it and "GLIBC_TUNABLES" not in os.environ and os.environ.get("DECODER_LAB_HUGE_PAGES") != "0":
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def cache_directory() -> pathlib.Path:
    """Returns where things that can be made again are kept: $DECODER_LAB_CACHE, or ~/.cache/decoder_lab."""
    return pathlib.Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/decoder_lab").expanduser()


def compilation_cache() -> pathlib.Path:
    """Keeps every compiled program on disk, small and quick ones too, for the next process; returns the folder.

    JAX_COMPILATION_CACHE_DIR, where it is set, stays in force. Call it before the first compilation.
    """
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return pathlib.Path(jax.config.jax_compilation_cache_dir)


def quiet_logs() -> None:
    """Hides what other packages say about themselves. What goes wrong reaches the user as an exception or a line of the lab's own."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ side, read when JAX is imported
    for name in ("jax", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs a failed save as several tracebacks


def device_summary() -> str:
    """Returns one phrase on what computes: "1 x NVIDIA H100 80GB HBM3 (gpu), jax 0.12.0"."""
    import jax

    devices = jax.devices()
    processes = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
    cores = f", {len(os.sched_getaffinity(0))} cores" if devices[0].platform == "cpu" else ""
    return f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}{cores}{processes}), jax {jax.__version__}"


def memory_estimate(params: Any, opt_state: Any, ema: bool = False) -> dict[str, int]:
    """Returns the bytes of {"params", "optimizer", "gradients", "ema", "total"} on a device that holds them whole; activations come on top.

    `params` and `opt_state` are trees of arrays or of their shapes (`jax.eval_shape`).
    """
    from decoder_lab.core import tree

    params_bytes = tree.num_bytes(params)
    parts = {"params": params_bytes, "optimizer": tree.num_bytes(opt_state), "gradients": params_bytes, "ema": params_bytes if ema else 0}
    return parts | {"total": sum(parts.values())}


def leashed(command: Iterable[str]) -> list[str]:
    """Returns a command that the system sends a SIGTERM when this process ends, even by kill -9 (on Linux): it saves and ends too."""
    before = [sys.executable, "-S", "-E", "-c", LEASH, str(os.getpid())] if sys.platform == "linux" else []
    return [*before, *command]


@functools.cache
def versions() -> dict[str, Any]:
    """Returns {"versions": {package: version or None}, "python": ..., "platform": ...}; imports none of them."""
    import importlib.metadata  # slow, and not needed before a config is known to be sane

    found = {}
    for name in RECORDED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None  # such as the lab itself, run from a checkout
    return {"versions": found, "python": platform.python_version(), "platform": platform.platform()}


def git_commit(directory: pathlib.Path | None = None) -> str | None:
    """Returns the commit of the code, with "+changes" if files differ from it; None without git or outside a repository."""
    directory = directory or pathlib.Path(__file__).resolve().parent
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(directory, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(directory: pathlib.Path, *arguments: str) -> str:
    command = ["git", "--no-optional-locks", "-C", str(directory), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=GIT_SECONDS).stdout.strip()


class StopSignals:
    """`with StopSignals() as stop:` SIGTERM and Ctrl-C set `stop.requested` to the signal's name instead of ending the process.

    The loop looks at it between steps. A second Ctrl-C ends the process at once. The signals mean again afterwards what they meant before.
    """

    def __init__(self):
        self.requested: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by a library, not by Python

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # kills also inside compiled code, which never comes back to Python
        hint = "; Ctrl-C again ends it at once" if number == signal.SIGINT else ""
        # not print: a signal may fall into the middle of another print, which cannot be entered twice
        os.write(2, f"\n{self.requested}: finishing this step, then saving{hint}.\n".encode())
