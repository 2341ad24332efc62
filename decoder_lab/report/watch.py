"""The report of live runs, on this machine only: made anew when a file of a run has changed, and the page loads itself again then."""

import contextlib
import http.server
import pathlib
import threading
import zlib

from decoder_lab.core.errors import UserError
from decoder_lab.report import page, run
from decoder_lab.report.markup import tag

HOST = "127.0.0.1"
NAMES = ("127.0.0.1", "localhost")  # under which the page may be asked for: another site's name that leads here is refused
TRIES = 20


class Report:
    """The page of some folders, kept as long as no file of the runs changes."""

    def __init__(self, paths: list[pathlib.Path], title: str = ""):
        self._paths, self._title = paths, title
        self._lock, self._made = threading.Lock(), ("", b"")

    def version(self) -> str:
        """Returns what changes when a file of a run does, or a run comes."""
        states = []
        for file in (folder / name for path in self._paths for folder in run.below(path) for name in run.FILES):
            with contextlib.suppress(OSError):  # of a live run files come and go
                stat = file.stat()
                states.append((str(file), stat.st_size, stat.st_mtime_ns))
        return f"{zlib.crc32(repr(states).encode()):08x}"

    def page(self) -> bytes:
        """Returns the page as of now."""
        with self._lock:
            version = self.version()
            if self._made[0] != version:
                made = page.page(run.read(self._paths), self._title, live=True)
                self._made = version, made.encode("utf-8", "backslashreplace")
            return self._made[1]


def server(report: Report, port: int) -> http.server.ThreadingHTTPServer:
    """Returns a server that answers "/" and "/version"; takes the next free port, any for 0. Errors: UserError where none is free."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802, the name that http.server asks for
            if self.headers.get("Host", "").rpartition(":")[0] not in NAMES:
                return self._answer(403, "text/plain", b"this page is for this machine")
            if self.path == "/version":
                return self._answer(200, "text/plain", report.version().encode())
            if self.path != "/":
                return self._answer(404, "text/plain", b"there is only /")
            try:
                self._answer(200, "text/html; charset=utf-8", report.page())
            except UserError as error:
                self._answer(503, "text/html; charset=utf-8", _waiting(str(error)))

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing of each question."""

    for candidate in range(port, port + (TRIES if port else 1)):
        try:
            return http.server.ThreadingHTTPServer((HOST, candidate), Handler)
        except OSError:
            continue
    raise UserError(f"--port: {port} to {port + TRIES - 1} are all in use; name another.")


def _waiting(why: str) -> bytes:
    """Returns a page that asks again every two seconds."""
    ask = tag("meta", http_equiv="refresh", content="2")
    return ("<!doctype html>" + tag("html", tag("head", ask, tag("title", "waiting")), tag("body", tag("p", why)))).encode()


def serve(paths: list[pathlib.Path], port: int, title: str = "") -> int:
    """Serves the report until Ctrl-C; returns the exit code. A folder that is not there yet is waited for."""
    for path in paths:
        if not path.is_dir():
            print(f"waiting for {path}: there is no such folder yet")
    with server(Report(paths, title), port) as made:
        print(f"report: http://{HOST}:{made.server_address[1]}/ (this machine only; Ctrl-C ends it)", flush=True)
        try:
            made.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0
