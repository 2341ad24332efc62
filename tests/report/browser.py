"""A real browser without a screen, told what to do through its own protocol over two pipes: no driver, no package."""

import base64
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ABSENT = "no Chromium here (Debian: apt-get install chromium); the page was not opened in a browser"
SECONDS = 20


def path():
    """Where a browser is; None without one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One page of the browser. Everything that it says or asks for meanwhile is kept.

    Attributes:
      console: what the page wrote to its console, and every exception that nobody caught.
      requests: addresses that it asked for.
    """

    def __init__(self, out, back):
        self._out, self._back, self._rest, self._number = out, back, b"", 0
        self.console, self.requests, self._session = [], [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Sends a command and returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": self._session} if self._session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]
            self._event(message)

    def _next(self):
        while b"\0" not in self._rest:
            got = os.read(self._back, 1 << 20)
            assert got, "the browser has ended"
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def _event(self, message):
        kind, params = message.get("method"), message.get("params", {})
        if kind == "Runtime.consoleAPICalled":
            self.console.append(str([a.get("value", a.get("description")) for a in params["args"]]))
        elif kind == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"]))
        elif kind == "Log.entryAdded":
            self.console.append(params["entry"]["text"])
        elif kind == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def js(self, expression):
        """Returns what an expression, or a promise, gives in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, address, width=1280, height=900, dark=False, script=True):
        """Opens an address and waits until the report has drawn itself; returns the milliseconds that it took by its own clock."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=address)
        if script:
            self.wait("document.documentElement?.dataset.ready")
            return float(self.js("document.documentElement.dataset.ready"))
        time.sleep(0.5)
        return None

    def wait(self, expression):
        """Waits until an expression is true in the page."""
        end = time.monotonic() + SECONDS
        while not self.js(f"!!({expression})"):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def key(self, name):
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def picture(self, file, whole=True):
        """Writes what the page looks like as PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}} if whole else {}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **clip)
        pathlib.Path(file).write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser():
    """Starts a browser, gives a `Page`, and ends it."""
    down, up = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={home}"]
        flags += ["--disable-dev-shm-usage", "--disable-background-networking", "--disable-extensions", "--disable-component-update"]
        command = ["bash", "-c", f'exec "$@" 3<&{down[0]} 4>&{up[1]}', "-", path(), *flags]
        process = subprocess.Popen(command, pass_fds=(down[0], up[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(down[0])
        os.close(up[1])
        try:
            yield Page(down[1], up[0])
        finally:
            process.terminate()
            process.wait(SECONDS)
            os.close(down[1])
            os.close(up[0])
