"""A headless Chromium that is driven from the keyboard, over the pipes of its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

CODES = {"Enter": 13, "Backspace": 8, "Tab": 9, "Escape": 27, "Home": 36, "End": 35}
CODES |= {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
MODIFIERS = {"Alt": 1, "Shift": 8}


class Tab:
    """One page.

    Args:
      send: `(method, **parameters) -> result` of the protocol.
    """

    def __init__(self, send):
        self._send = send

    def press(self, *keys: str) -> None:
        """Presses keys, one after another: "1", "Enter", "ArrowLeft", "Alt+n", "Shift+Tab"."""
        for name in keys:
            held, _, key = name.rpartition("+") if len(name) > 1 else ("", "", name)
            about = {"key": key, "windowsVirtualKeyCode": CODES.get(key, 0)}
            if len(key) == 1 and key.isalnum():
                about["windowsVirtualKeyCode"] = ord(key.upper())
                about["code"] = f"Digit{key}" if key.isdigit() else f"Key{key.upper()}"
            about["modifiers"] = MODIFIERS.get(held, 0)
            text = {"text": key} if len(key) == 1 and held != "Alt" else {}
            text = {"text": "\r"} if key == "Enter" else text
            self._send("Input.dispatchKeyEvent", type="keyDown", **about, **text)
            self._send("Input.dispatchKeyEvent", type="keyUp", **about)

    def show(self, width: int, height: int, dark: bool = False) -> None:
        """A window of this size, for somebody who likes it dark or light."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._send("Emulation.setEmulatedMedia", features=[theme])

    def point(self, x: float, y: float) -> None:
        """Moves the mouse there."""
        self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path: Path) -> None:
        """What is seen, as a PNG file."""
        data = self._send("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def value(self, expression: str):
        """What a JavaScript expression comes to; it may be a promise."""
        found = self._send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, url: str) -> None:
        """Goes to a page, and waits until it is there."""
        self._leave("Page.navigate", url=url)

    def reload(self) -> None:
        """The same page anew."""
        self._leave("Page.reload")

    def _leave(self, method: str, **parameters) -> None:
        self.value("window.left = true")
        self._send(method, **parameters)
        wait_for(lambda: self.value("!window.left && document.readyState === 'complete'"))


def wait_for(there: Callable[[], bool]) -> None:
    """Until something is so; not for ever."""
    deadline = time.monotonic() + 30
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def tab(downloads: Path) -> Iterator[Tab]:
    """An empty tab; what is saved goes to `downloads`. Skips where there is no Chromium."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("there is no Chromium on this machine")
    (theirs_in, ours_out), (ours_in, theirs_out) = os.pipe(), os.pipe()
    # The protocol is on the descriptors 3 and 4, each message ending with a NUL.
    shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
    profile = f"--user-data-dir={downloads}/profile"
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", program, *options, profile],
        pass_fds=(theirs_in, theirs_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in), os.close(theirs_out)
    numbers = itertools.count(1)
    try:
        with open(ours_in, "rb", buffering=0) as told, open(ours_out, "wb", buffering=0) as pipe:
            answers = _messages(told)

            def send(method: str, session: str | None = None, **parameters) -> dict:
                number = next(numbers)
                about = {"sessionId": session} if session else {}
                message = {"id": number, "method": method, "params": parameters, **about}
                pipe.write(json.dumps(message).encode() + b"\0")
                answer = next(one for one in answers if one.get("id") == number)
                assert "result" in answer, answer
                return answer["result"]

            target = send("Target.createTarget", url="about:blank")["targetId"]
            session = send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
            yield Tab(lambda method, **given: send(method, session, **given))
    finally:
        process.kill()
        process.wait()


def _messages(pipe) -> Iterator[dict]:
    left = b""
    while some := pipe.read(1 << 16):
        *whole, left = (left + some).split(b"\0")
        yield from map(json.loads, whole)
