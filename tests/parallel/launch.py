"""Starts the real program as several processes of one run, on this machine, with a CPU each."""

import os
import pathlib
import socket
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
# TEST_SIGNAL="TERM:5:1": process 1 gets SIGTERM when the batch of step 5 is asked for; FULL: from then on its disk is full
PROGRAM = """
import os, resource, signal
from decoder_lab import main
from decoder_lab.data import feed
from decoder_lab.parallel import processes
name, step, index = os.environ.get("TEST_SIGNAL", "TERM:-1:-1").split(":")
batch = feed.Feed.batch
def signalled(self, asked):
    if asked == int(step) and processes.index() == int(index):
        if name == "FULL":
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
            return batch(self, asked)
        os.kill(os.getpid(), signal.Signals["SIG" + name])
    return batch(self, asked)
feed.Feed.batch = signalled
main.entry_point()
"""


def free_port():
    """A port that is free, and whose next one is."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
            except (OSError, OverflowError):
                continue
            return port


class Run:
    """`count` processes of one run with `devices` each; `arguments` are those of the program."""

    def __init__(self, count, devices, *arguments, environment=None):
        port = free_port()
        flags = os.environ.get("XLA_FLAGS", "").split()
        kept = [flag for flag in flags if "device_count" not in flag]
        environment = {**os.environ, "XLA_FLAGS": " ".join(kept), "JAX_NUM_CPU_DEVICES": str(devices), **(environment or {})}
        self.outputs = [tempfile.TemporaryFile("w+") for _ in range(count)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *arguments, f"--distributed=127.0.0.1:{port},{index},{count}"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for index, output in enumerate(self.outputs)
        ]

    def wait(self, timeout=120):
        """Returns (exit codes, what each process said)."""
        try:
            codes = [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        said = []
        for output in self.outputs:
            output.seek(0)
            said.append(output.read())
            output.close()
        return codes, said
