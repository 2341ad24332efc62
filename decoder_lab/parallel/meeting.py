"""How the processes of a run know of each other beside their arrays: who is there, who has gone and why, and small values in common.

Process 0 has a hub, to which every process, itself too, holds one TCP connection. Lines of JSON go over it. A process that dies closes its
connection, one that fails says so before; either way the hub tells all others, and each of them ends with the reason instead of waiting for
ever inside a collective operation. A machine that vanishes without a word is noticed by the system's keep-alive probes, which need no
Python. No clock of another machine is read.

Knows nothing of JAX, and works before it is started.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from decoder_lab.core.errors import UserError
from decoder_lab.core.runtime import EXIT_RESUMABLE

PROBE_AFTER, PROBE_EVERY, PROBES = 15, 5, 6  # seconds, seconds, and unanswered probes until a silent machine counts as gone
SILENT_SECONDS = PROBE_AFTER + PROBES * PROBE_EVERY
RETRY_SECONDS = 0.2
TELL_SECONDS = 30.0
FAREWELL_SECONDS = 5.0
LAST_WORD_SECONDS = 1.0
CHUNK = 1 << 16


class Absent(Exception):
    """Not all processes came in time; the text names those that are missing."""


class Hub(threading.Thread):
    """Process 0's side: takes in `count` processes, joins what they contribute, and passes on who ended and why."""

    def __init__(self, port: int, count: int):
        super().__init__(name="meeting hub", daemon=True)
        self._count = count
        self._peers: dict[int, _Line] = {}
        self._parts: dict[str, dict[int, Any]] = {}
        self._left: set[int] = set()
        self._over = False
        self._selector = selectors.DefaultSelector()
        self._server = _listen(port)
        self._selector.register(self._server, selectors.EVENT_READ)
        self.start()

    def missing(self) -> list[int]:
        """Returns the indices of the processes that have not come yet."""
        return sorted(set(range(self._count)) - self._peers.keys())

    def run(self) -> None:
        try:
            self._serve()
        except Exception:  # without a hub nobody would hear of another's end: better this process's own, which all hear of
            traceback.print_exc()
            exit_now(EXIT_RESUMABLE, "error: process 0 can no longer tell the others what happens. The same command goes on.")
            raise

    def _serve(self) -> None:
        while self._left != set(range(self._count)):
            for event, _ in self._selector.select():
                if event.fileobj is self._server:
                    self._accept()
                else:
                    self._read(event.data)
        self._server.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
            self._selector.register(connection, selectors.EVENT_READ, _Line(connection))
        except OSError:  # gone again, or too many open files: whoever still waits is taken in a moment later
            time.sleep(RETRY_SECONDS)

    def _read(self, line: "_Line") -> None:
        messages, gone = line.receive()
        for message in messages:
            self._heard(line, message)
        if not gone:
            return
        self._selector.unregister(line.socket)
        line.socket.close()
        index = line.index
        if index is not None and index not in self._left and self._peers.get(index) is line:
            self._left.add(index)
            self._pass_on(index, {"code": None, "text": f"it is gone ({gone})"})

    def _heard(self, line: "_Line", message: dict[str, Any]) -> None:
        if "hello" in message:
            if _is_hello(message["hello"]):
                self._welcome(line, message["hello"])
        elif line.index is None:
            pass  # no process of a run: whoever else knocks at this port
        elif "bye" in message:
            self._left.add(line.index)
        elif "end" in message:
            self._left.add(line.index)
            self._pass_on(line.index, message["end"])
        elif "key" in message:
            parts = self._parts.setdefault(message["key"], {})
            parts[line.index] = message["value"]
            if len(parts) == self._count:
                del self._parts[message["key"]]
                self._tell({"key": message["key"], "values": [parts[i] for i in range(self._count)]})

    def _welcome(self, line: "_Line", hello: dict[str, Any]) -> None:
        index, host = hello["index"], hello["host"]
        if hello["count"] != self._count:
            wrong = f"process {index} on {host} was told that there are {hello['count']} processes, process 0 that there are {self._count}"
        elif index in self._peers:
            wrong = f"two processes say that they are number {index} of {self._count}: on {self._peers[index].host} and on {host}"
        else:
            line.index, line.host = index, host
            self._peers[index] = line
            if not self.missing():
                self._tell({"go": [self._peers[i].host for i in range(self._count)]})
            return
        line.send({"refused": wrong})
        for peer in self._peers.values() if self.missing() else ():  # those who all met need nobody else
            peer.send({"refused": wrong})

    def _pass_on(self, index: int, end: dict[str, Any]) -> None:
        if not self._over:  # what follows the first end follows from it
            self._over = True
            self._tell({"end": end, "index": index, "host": self._peers[index].host})

    def _tell(self, message: dict[str, Any]) -> None:
        for index in sorted(self._peers, reverse=True):  # process 0 last: it may end as soon as it was told
            self._peers[index].send(message)


class Meeting:
    """One process's place among all of a run.

    Args:
      address: "host:port" of process 0's hub.
      index, count: which of how many processes this one is.
      patience: seconds to wait for all to come.
      report: takes one line for the user.
      leave: called with (exit code or None, text) when another process ended; must end this process.
    Errors: Absent where somebody does not come; UserError where two disagree on how many there are or who is who.
    """

    def __init__(
        self,
        address: str,
        index: int,
        count: int,
        patience: float,
        report: Callable[[str], None],
        leave: Callable[[int | None, str], None],
    ):
        self.index, self.count, self._leave = index, count, leave
        self._changed = threading.Condition()
        self._values: dict[str, list[Any]] = {}
        self._calls: dict[str, int] = {}
        self._hosts: list[str] | None = None
        self._refused = ""
        self._said_end = False
        self._closing = False
        host, port = address.rpartition(":")[::2]
        self._hub = Hub(int(port), count) if index == 0 else None
        self._line = self._connected("127.0.0.1" if index == 0 else host.strip("[]"), int(port), patience, report)
        self._line.send({"hello": {"index": index, "count": count, "host": socket.gethostname()}})
        threading.Thread(target=self._listen, name="meeting", daemon=True).start()
        self._await_all(patience, report)

    @property
    def hosts(self) -> list[str]:
        """The name of every process's machine."""
        return self._hosts

    def gather(self, name: str, value: Any) -> list[Any]:
        """Returns what every process contributed under this name, by index; waits until all have. Values are JSON, of some megabytes.

        The n-th call of a name belongs to the n-th of all others: calls of one name come in the same order everywhere.
        """
        with self._changed:
            number = self._calls[name] = self._calls.get(name, 0) + 1
        key = f"{name}#{number}"
        self._line.send({"key": key, "value": value})
        with self._changed:
            self._changed.wait_for(lambda: key in self._values)
            return self._values.pop(key)

    def close(self) -> None:
        """Ends well, together with all others."""
        self.gather("close", None)
        self._closing = True
        self._line.send({"bye": True})

    def end(self, code: int, text: str) -> None:
        """Tells all others that this process ends, and why; returns when they were told, or after a few seconds."""
        self._closing = True
        self._line.send({"end": {"code": code, "text": text}})
        with self._changed:
            self._changed.wait_for(lambda: self._said_end, FAREWELL_SECONDS)

    def _connected(self, host: str, port: int, patience: float, report: Callable[[str], None]) -> "_Line":
        began, told = time.monotonic(), 0.0
        while True:
            try:
                connection = socket.create_connection((host, port), timeout=10)
                connection.settimeout(None)
                return _Line(connection)
            except OSError as error:
                waited = time.monotonic() - began
                if waited > patience:
                    raise Absent(
                        f"process 0 could not be reached at {host}:{port} for {patience:.0f} s ({error.strerror or error}). "
                        "Does it run, is that its machine's name, and may other machines reach that port?"
                    ) from error
                if waited - told > TELL_SECONDS:
                    told = waited
                    report(f"process {self.index} waits for process 0 at {host}:{port} ({error.strerror or error})")
                time.sleep(RETRY_SECONDS)

    def _await_all(self, patience: float, report: Callable[[str], None]) -> None:
        began = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._hosts or self._refused, min(TELL_SECONDS, patience))
            waited = time.monotonic() - began
            if self._refused:
                raise UserError(f"--distributed: {self._refused}. Give every process the same count and its own index.")
            if self._hosts:
                return
            missing = self._hub.missing() if self._hub else []
            lacking = f"process{'es' * (len(missing) > 1)} {_some(missing)} of {self.count}" if missing else "another process"
            if waited > patience:
                raise Absent(f"{lacking} did not come within {patience:.0f} s.")
            if self._hub:
                report(f"waiting for {lacking} ({waited:.0f} s)")

    def _listen(self) -> None:
        gone = ""
        while not gone:
            messages, gone = self._line.receive()
            for message in messages:
                self._heard(message)
        if not self._closing and not self._refused:
            self._leave(None, f"process 0 is gone ({gone})")

    def _heard(self, message: dict[str, Any]) -> None:
        with self._changed:
            if "go" in message:
                self._hosts = message["go"]
            elif "refused" in message and self._hosts is None:
                self._refused = message["refused"]
            elif "key" in message:
                self._values[message["key"]] = message["values"]
            elif "end" in message and self._closing:
                self._said_end = True
            self._changed.notify_all()
        if "end" in message and not self._closing:
            self._leave(message["end"]["code"], f"process {message['index']} on {message['host']} ended: {message['end']['text']}")


class _Line:
    """One connection, of lines of JSON; `index` and `host` of the process at its other end where that is known."""

    def __init__(self, connection: socket.socket):
        self.socket, self.index, self.host = connection, None, ""
        self._pending = b""
        self._sending = threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        limits = dict(TCP_KEEPIDLE=PROBE_AFTER, TCP_KEEPINTVL=PROBE_EVERY, TCP_KEEPCNT=PROBES)
        limits["TCP_USER_TIMEOUT"] = 1000 * SILENT_SECONDS  # while data is under way there are no probes
        for name, value in limits.items():
            if hasattr(socket, name):  # Linux
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; one to somebody who is gone is lost, which `receive` tells."""
        with self._sending, contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> tuple[list[dict[str, Any]], str]:
        """Waits for something to come; returns (whole messages, why nothing will come any more or "")."""
        try:
            data = self.socket.recv(CHUNK)
        except OSError as error:
            return [], error.strerror or str(error)
        *lines, self._pending = (self._pending + data).split(b"\n")
        messages = []
        for line in lines:
            with contextlib.suppress(ValueError):  # of whoever else knocks at this port
                found = json.loads(line)
                messages += [found] if isinstance(found, dict) else []
        return messages, "" if data else "its connection was closed"


def _listen(port: int) -> socket.socket:
    try:
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(f"--distributed: process 0 cannot listen at port {port}: {error.strerror}. Take another port.") from error


def _is_hello(found: Any) -> bool:
    """Whether a process of a run says who it is, and not somebody who happens to know JSON."""
    return isinstance(found, dict) and [type(found.get(name)) for name in ("index", "count", "host")] == [int, int, str]


def _some(indices: list[int]) -> str:
    return ", ".join(map(str, indices[:8])) + (f" and {len(indices) - 8} more" if len(indices) > 8 else "")


def exit_now(code: int, text: str) -> None:
    """Ends this process at once: no exit handler runs, as they would wait for processes that are gone.

    Its last words may fail, or block (a full disk, no terminal, another thread that is stuck in a print): that delays the end by moments.
    """
    try:
        for say in (lambda: sys.stdout.flush(), lambda: os.write(2, f"{text}\n".encode("utf-8", "backslashreplace") if text else b"")):
            saying = threading.Thread(target=_tried, args=(say,), daemon=True)
            saying.start()
            saying.join(LAST_WORD_SECONDS)
    finally:
        os._exit(code)


def _tried(say: Callable[[], Any]) -> None:
    with contextlib.suppress(Exception):
        say()
