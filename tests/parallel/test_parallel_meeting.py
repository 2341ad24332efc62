"""Processes know of each other without JAX: values in common, and an end that all hear of within a moment."""

import concurrent.futures
import pathlib
import queue
import signal
import socket
import subprocess
import sys
import time

import launch
import pytest

from decoder_lab.core.errors import UserError
from decoder_lab.parallel.meeting import Absent, Meeting

ROOT = pathlib.Path(__file__).parents[2]


class Process:
    """One of several, as a thread: `ended` gets what it is told of another's end."""

    def __init__(self, port, index, count, patience=20.0, said_count=None):
        self.ended = queue.Queue()
        leave = lambda code, text: self.ended.put((code, text))  # noqa: E731
        self.meeting = Meeting(f"localhost:{port}", index, said_count or count, patience, lambda line: None, leave)


def meet(count):
    port = launch.free_port()
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda index: Process(port, index, count), range(count)))


def together(processes, call):
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        return list(pool.map(call, processes))


def test_all_get_the_values_of_all_by_index_call_by_call():
    processes = meet(5)
    for attempt in range(3):
        values = together(processes, lambda p, n=attempt: p.meeting.gather("name", [p.meeting.index, n]))
        assert values == [[[i, attempt] for i in range(5)]] * 5
    large = "x" * 3_000_000
    assert together(processes, lambda p: p.meeting.gather("large", large + str(p.meeting.index))[3][-1]) == ["3"] * 5
    assert processes[2].meeting.hosts == [socket.gethostname()] * 5
    together(processes, lambda p: p.meeting.close())
    time.sleep(0.1)
    assert all(p.ended.empty() for p in processes)


def test_an_error_of_one_ends_all_with_its_text_and_code():
    processes = meet(4)
    processes[2].meeting.end(2, "the file is missing")
    for index in (0, 1, 3):
        code, text = processes[index].ended.get(timeout=5)
        assert code == 2 and text.startswith("process 2 on ") and text.endswith("the file is missing")
    assert processes[2].ended.empty()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_noticed_at_once(victim):
    """kill -9: the system closes its connection, and no heartbeat has to be waited for."""
    code = (
        "import sys, time\nfrom decoder_lab.parallel.meeting import Meeting\n"
        "Meeting(f'127.0.0.1:{sys.argv[1]}', int(sys.argv[2]), 2, 20.0, print, lambda *end: print(end))\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    port = launch.free_port()
    process = subprocess.Popen([sys.executable, "-c", code, str(port), str(victim)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        survivor = Process(port, 1 - victim, 2)
        assert process.stdout.readline() == "ready\n"
        killed = time.monotonic()
        process.send_signal(signal.SIGKILL)
        code, text = survivor.ended.get(timeout=10)
        assert time.monotonic() - killed < 5 and code is None
        assert f"process {victim}" in text and "is gone" in text
    finally:
        process.kill()
        process.communicate()


def test_who_does_not_come_is_named():
    port = launch.free_port()
    with pytest.raises(Absent, match="processes 1, 2 of 3 did not come within 1 s"):
        Process(port, 0, 3, patience=1.0)
    port = launch.free_port()
    with pytest.raises(Absent, match=f"process 0 could not be reached at localhost:{port} for 1 s"):
        Process(port, 1, 2, patience=1.0)


@pytest.mark.parametrize(
    "index, said, part", [(0, None, "two processes say that they are number 0"), (1, 3, "told that there are 3 processes")]
)
def test_contradictions_are_refused_everywhere(index, said, part):
    port = launch.free_port()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(Process, port, 0, 2)
        time.sleep(0.3)
        if index == 0:  # a second process 0, on another machine, would connect to the first one's hub
            with socket.create_connection(("localhost", port)) as other:
                other.sendall(b'GET / HTTP/1.1\r\n{"hello": {"index": 0, "count": 2, "host": "elsewhere"}}\n')
                other.sendall(b'{"hello": {"index": 0, "count": 2, "host": "elsewhere"}}\n')
                with pytest.raises(UserError, match=part):
                    first.result(timeout=10)
            return
        with pytest.raises(UserError, match=part):
            Process(port, index, 2, said_count=said)
        with pytest.raises(UserError, match=part):
            first.result(timeout=10)


def test_a_taken_port_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen at port {port}"):
            Process(port, 0, 2)
