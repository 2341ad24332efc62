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


def knock(port, line):
    """Somebody who is no process of the run; returns what the hub says within a moment."""
    with socket.create_connection(("localhost", port)) as other:
        other.settimeout(0.5)
        other.sendall(line + b"\n")
        try:
            return other.recv(4096)
        except TimeoutError:
            return b""


def test_whoever_comes_too_late_is_refused_and_changes_nothing():
    """The same command started twice: those who run still hear of each other's end."""
    processes = meet(2)
    port = processes[0].meeting._line.socket.getpeername()[1]
    assert b"two processes say" in knock(port, b'{"hello": {"index": 1, "count": 2, "host": "x"}}')
    processes[0].meeting._hub._peers[1].socket.shutdown(socket.SHUT_RDWR)  # as when process 0 dies
    assert "process 0" in processes[1].ended.get(timeout=5)[1]


@pytest.mark.parametrize("line", [b'{"hello": 1}', b'{"hello": {}}', b'{"hello": {"index": [0], "count": 2, "host": "x"}}'])
def test_whoever_else_knocks_changes_nothing(line):
    processes = meet(2)
    assert knock(processes[0].meeting._line.socket.getpeername()[1], line) == b"" and processes[0].meeting._hub.is_alive()
    assert together(processes, lambda p: p.meeting.gather("name", p.meeting.index)) == [[0, 1]] * 2


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux")
def test_a_machine_that_vanishes_while_data_is_under_way_is_noticed_as_soon():
    """The system sends no probes while sent bytes are unacknowledged: a limit of its own holds then, of a quarter of an hour."""
    processes = meet(2)
    lines = [p.meeting._line for p in processes] + list(processes[0].meeting._hub._peers.values())
    assert [line.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) for line in lines] == [45_000] * 4


@pytest.mark.parametrize("hindrance", ["os.close(2)", "print(9); os.dup2(full, 1); os.dup2(full, 2)"])
def test_nothing_keeps_a_process_from_its_end(hindrance):
    """A log on a full disk, a terminal that is gone: called in a thread, as it is when another process died."""
    code = (
        "import os, threading, time\nfrom decoder_lab.parallel.meeting import exit_now\n"
        f"full = os.open('/dev/full', os.O_WRONLY)\n{hindrance}\n"
        "threading.Thread(target=exit_now, args=(75, 'gone'), daemon=True).start()\ntime.sleep(20)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 75
