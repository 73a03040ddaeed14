"""A headless Chromium, driven through chromedriver's HTTP interface (W3C WebDriver), for tests of pages."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patience import WAIT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
MISSING = "needs chromium and chromedriver on PATH" if CHROMIUM is None or DRIVER is None else None
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)
KEYS = {"Right": "\ue014", "Left": "\ue012", "Down": "\ue015", "Up": "\ue013", "Enter": "\ue007", "Escape": "\ue00c"}
KEYS |= {"Shift": "\ue008", "Control": "\ue009", "Home": "\ue011", "End": "\ue010", "Space": " ", "Tab": "\ue004"}


class Browser:
    """One window. `console` has what the page's console said, errors of its policy among them."""

    def __init__(self, address: str, session: str) -> None:
        self._base = f"{address}/session/{session}"

    def ask(self, method: str, path: str, **values: Any) -> Any:
        return _ask(method, f"{self._base}/{path}", values)

    def open(self, path: Path) -> None:
        self.ask("POST", "url", url=path.absolute().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        return self.ask("POST", "execute/sync", script=script, args=list(arguments))

    def wait(self, script: str, seconds: float = WAIT) -> Any:
        """The first true value of the script; fails where there is none in time."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, script
            time.sleep(0.02)
        return value

    def press(self, *names: str) -> None:
        """Keys one after the other; `Shift+Down` holds the first."""
        steps: list[dict[str, Any]] = []
        for name in names:
            keys = [KEYS.get(part, part) for part in (name.split("+") if len(name) > 1 else [name])]
            steps += [{"type": "keyDown", "value": key} for key in keys]
            steps += [{"type": "keyUp", "value": key} for key in reversed(keys)]
        self.ask("POST", "actions", actions=[{"type": "key", "id": "keys", "actions": steps}])

    def click(self, selector: str, index: int = 0) -> None:
        elements = self.ask("POST", "elements", using="css selector", value=selector)
        (element,) = elements[index].values()
        self.ask("POST", f"element/{element}/click")

    def size(self, width: int, height: int) -> None:
        self.ask("POST", "window/rect", width=width, height=height)

    def screenshot(self) -> bytes:
        return base64.b64decode(self.ask("GET", "screenshot"))

    @property
    def console(self) -> list[str]:
        return [entry["message"] for entry in self.ask("POST", "se/log", type="browser")]


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A browser with a profile of its own, which is gone afterwards."""
    assert DRIVER is not None
    driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        with tempfile.TemporaryDirectory(prefix="mlxdiff-browser-", ignore_cleanup_errors=True) as profile:
            address = f"http://127.0.0.1:{_port(driver)}"
            options = {"binary": CHROMIUM, "args": [*ARGUMENTS, f"--user-data-dir={profile}", *arguments]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            session = _ask("POST", f"{address}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            browser = Browser(address, session)
            try:
                yield browser
            finally:
                browser.ask("DELETE", "")
    finally:
        driver.terminate()
        driver.communicate()


def _port(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if (found := re.search(r"started successfully on port (\d+)", line)) is not None:
            return int(found[1])
    raise AssertionError("chromedriver does not start")


def _ask(method: str, url: str, values: dict[str, Any]) -> Any:
    data = json.dumps(values).encode() if method == "POST" else None
    request = urllib.request.Request(url.rstrip("/"), data, {"Content-Type": "application/json"}, method=method)
    opener: Callable[..., Any] = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    try:
        with opener(request, timeout=WAIT) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(json.load(error)["value"]["message"]) from None
