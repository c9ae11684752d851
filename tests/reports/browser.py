"""A headless Chromium that tests drive by the DevTools protocol: real clicks, keys and drags, as readers make them."""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

PROGRAM = "chromium"
PATIENCE = 20.0  # seconds that anything may take
CODES = {
    "Enter": 13,
    " ": 32,
    "Tab": 9,
    "ArrowDown": 40,
    "ArrowUp": 38,
    "Escape": 27,
    "End": 35,
    "Home": 36,
    "PageDown": 34,
}
SIGNS = {"Enter": "\r", " ": " "}


def missing() -> bool:
    return shutil.which(PROGRAM) is None


class Browser:
    """One tab. requests, errors: the addresses it asked for, and what went wrong in it, since it was opened."""

    def __init__(self, address: str, downloads: Path) -> None:
        self._socket = connect(address, max_size=None, open_timeout=PATIENCE)
        self._numbers = itertools.count(1)
        self.downloads = downloads
        self.requests: dict[str, str] = {}
        self.errors: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
        self.size(1280, 900)

    def call(self, method: str, **parameters: Any) -> dict:
        """Sends a command, and waits for its answer; what happened meanwhile is noted."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=PATIENCE))
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self._note(message)

    def _note(self, message: dict) -> None:
        told = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests[told["requestId"]] = told["request"]["url"]
        elif message.get("method") == "Network.loadingFailed" and told.get("blockedReason") == "csp":
            self.requests.pop(told["requestId"], None)  # it was never sent
        elif message.get("method") == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message.get("method") == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.errors.append(told["entry"]["text"])
        elif message.get("method") == "Page.javascriptDialogOpening":
            self.errors.append(f"a dialog: {told['message']}")
            self.call("Page.handleJavaScriptDialog", accept=True)

    def size(self, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path, view: str = "") -> None:
        """Opens a page from disk, and waits until it is ready."""
        self.call("Page.navigate", url="about:blank")
        self.requests, self.errors = {}, []
        self.call("Page.navigate", url=f"{page.resolve().as_uri()}{view}")
        self.until("document.documentElement?.hasAttribute('data-ready')")

    def value(self, expression: str) -> Any:
        """What an expression of the page is, promises awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Waits until an expression of the page is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(f"Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}; {self.errors}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        return self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def texts(self, selector: str) -> list[str]:
        return self.value(f"[...document.querySelectorAll({json.dumps(selector)})].map((node) => node.innerText)")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element, scrolled to where it is seen."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.until(found)
        edges = self.value(
            f"(() => {{ const node = {found}; node.scrollIntoView({{block: 'center'}});"
            " const edge = node.getBoundingClientRect(); return [edge.x, edge.y, edge.width, edge.height]; })()"
        )
        return tuple(edges)

    def click(self, selector: str) -> None:
        left, top, width, height = self.box(selector)
        self._mouse("mousePressed", left + width / 2, top + height / 2)
        self._mouse("mouseReleased", left + width / 2, top + height / 2)

    def drag(self, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Drags over an element, between two places given as shares of its width and height."""
        left, top, width, height = self.box(selector)
        (x1, y1), (x2, y2) = ((left + width * x, top + height * y) for x, y in (start, end))
        self._mouse("mousePressed", x1, y1)
        for step in range(1, 6):
            self._mouse("mouseMoved", x1 + (x2 - x1) * step / 5, y1 + (y2 - y1) * step / 5)
        self._mouse("mouseReleased", x2, y2)

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, *keys: str) -> None:
        for key in keys:
            sign = SIGNS.get(key, key if len(key) == 1 else "")
            told = {"key": key, "windowsVirtualKeyCode": CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)}
            self.call("Input.dispatchKeyEvent", type="keyDown", text=sign, **told)
            self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def fill(self, selector: str, text: str) -> None:
        """Types into a field, in place of what stands there, and leaves it by Enter."""
        self.click(selector)
        self.value(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)
        self.press("Enter")

    def choose(self, selector: str, value: str) -> None:
        """Takes an option of a select box: its menu is the system's, and can't be clicked here."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.value(f"{found}.value = {json.dumps(value)}; {found}.dispatchEvent(new Event('change'))")

    def downloaded(self, name: str) -> Path:
        """A file that the page gave, once it is whole."""
        end = time.monotonic() + PATIENCE
        while not (self.downloads / name).exists():
            assert time.monotonic() < end, f"{name} never came"
            time.sleep(0.05)
        return self.downloads / name

    def picture(self, path: Path, whole: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        self._socket.close()


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A Chromium of its own, whose files lie in the folder."""
    profile, downloads = folder / "profile", folder / "downloads"
    downloads.mkdir(parents=True)
    program = [
        PROGRAM, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--no-sandbox",
        "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars", "about:blank",
    ]  # fmt: skip
    with (folder / "chromium.log").open("w") as log:
        process = subprocess.Popen(program, stdout=log, stderr=log)
    try:
        port = _port(profile / "DevToolsActivePort", process)
        tabs = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=PATIENCE).read())
        tab = Browser(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"), downloads)
        yield tab
        tab.close()
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def _port(file: Path, process: subprocess.Popen) -> int:
    """The port that it chose, once it has written it down."""
    end = time.monotonic() + PATIENCE
    while not file.exists() or not file.read_text().strip():
        assert process.poll() is None and time.monotonic() < end, "Chromium did not start"
        time.sleep(0.05)
    return int(file.read_text().split()[0])
