"""How the measuring process talks to the processes that it measures: a job a line, an answer a line, both JSON."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]  # the folder that holds the package


def serve(kinds: dict[str, Callable], about: Callable[[], dict[str, str]], on_device: Callable[[], int] = lambda: 0) -> None:
    """Answers jobs until standard input ends: {"prepare": kind, "kw": {...}} -> `about()` and, where a job's runs do not all have the same
    size, their "size"; then {"count": n} -> {"seconds": s, "peak_bytes": most memory that there was so far, of the device where
    `on_device` knows, else of the process}."""
    out, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not look like an answer
    run = None
    for line in sys.stdin:
        job = json.loads(line)
        if "prepare" in job:
            run = kinds[job["prepare"]](**job["kw"])
            answer: dict[str, Any] = about() | ({"size": run.size} if hasattr(run, "size") else {})
        else:
            answer = {"seconds": run(job["count"]), "peak_bytes": on_device() or peak_bytes()}
        print(json.dumps(answer), file=out, flush=True)


def peak_bytes() -> int:
    """Returns the most memory that this process had resident; where Linux says so, without what the one that started it had before."""
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Side:
    """One measured process."""

    def __init__(self, python: str, module: str):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": path}
        self._printed = tempfile.TemporaryFile("w+", errors="replace")  # a pipe that nobody reads would stop the process when full
        self._process = subprocess.Popen(
            [python, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed, text=True, env=environment
        )

    def ask(self, **job: Any) -> dict:
        """Sends one job, waits for its answer. Errors: RuntimeError with what the process printed, if it died."""
        try:
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()
            self._printed.seek(0)
            raise RuntimeError(f"the measured process died:\n{self._printed.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._printed.close()
