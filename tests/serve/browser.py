"""A headless Chromium that is spoken to over a pipe (the DevTools protocol), for tests that look at the page."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FOUND = None if not shutil.which("bash") else next((path for name in NAMES if (path := shutil.which(name))), None)
_SECONDS = 60.0


class Browser:
    """One tab of a browser of its own, with a profile in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._read, theirs_out = os.pipe()
        theirs_in, self._write = os.pipe()
        options = (
            "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-dev-shm-usage"
            f" --disable-component-update --remote-debugging-pipe --user-data-dir={folder} about:blank"
        )
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "{FOUND}" {options} 3<&{theirs_in} 4>&{theirs_out}'],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._numbers, self._rest = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []
        """What the tab reported of its own accord: messages on the console, failures."""
        (tab,) = [t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self._call("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._call("Browser.close")
        self.process.wait(20)
        os.close(self._read)
        os.close(self._write)

    def show(self, url: str, width: int = 1400, height: int = 1000, *, dark: bool = False) -> None:
        """Open a page in a window of that size."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        return self._call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str) -> Any:
        """Poll until an expression in the page is true."""
        deadline = time.monotonic() + _SECONDS
        while not (found := self.run(script)):
            assert time.monotonic() < deadline, f"never came true: {script}; {self.events}"
            time.sleep(0.1)
        return found

    def type(self, text: str) -> None:
        """Type into whatever has the focus, and press Enter."""
        self._call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number, session = next(self._numbers), getattr(self, "_session", None)
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                assert "result" in answer, answer
                return dict(answer["result"])
            if answer.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.events.append(answer["params"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(line))
