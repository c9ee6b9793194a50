"""Debian's chromium, driven through its DevTools protocol over a pipe: no driver, no network.

https://chromedevtools.github.io/devtools-protocol/ : commands go into the browser's descriptor 3
and answers come from 4, each a JSON object that ends in a zero byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S = 30.0  # a browser that is silent for longer has hung

Message = dict[str, Any]


def find_chromium() -> str | None:
    """Return the path of a chromium, None where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """A running browser; what it says on its own is kept in ``events``."""

    def __init__(self, write_to: int, read_from: int) -> None:
        """Take the two descriptors of its pipe."""
        self.events: list[Message] = []
        self._write_to, self._read_from = write_to, read_from
        self._last_id = 0
        self._received = b""

    def ask(self, method: str, *, session: str | None = None, **parameters: object) -> Message:
        """Send a command and return its result. Raises AssertionError where it is refused."""
        self._last_id += 1
        command: Message = {"id": self._last_id, "method": method, "params": parameters}
        if session is not None:
            command["sessionId"] = session
        os.write(self._write_to, json.dumps(command).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last_id:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: Message = answer["result"]
        return result

    def wait_for(self, event: str, session: str | None = None) -> Message:
        """Return the next event of a kind, of a page or of the browser itself."""
        while True:
            for place, one in enumerate(self.events):
                if one.get("method") == event and one.get("sessionId") == session:
                    found: Message = self.events.pop(place)["params"]
                    return found
            self.events.append(self._next())

    def _next(self) -> Message:
        until = time.monotonic() + ANSWER_S
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read_from], [], [], max(0, until - time.monotonic()))
            assert ready, f"chromium has been silent for {ANSWER_S:.0f} s"
            more = os.read(self._read_from, 1 << 20)
            assert more, "chromium has ended"
            self._received += more
        message, _, self._received = self._received.partition(b"\0")
        parsed: Message = json.loads(message)
        return parsed


class Page:
    """One opened page."""

    def __init__(self, browser: Browser, session: str) -> None:
        """Remember where commands go."""
        self._browser, self._session = browser, session

    def ask(self, method: str, **parameters: object) -> Message:
        """Send the page a command of the protocol."""
        return self._browser.ask(method, session=self._session, **parameters)

    def run(self, script: str) -> Any:  # noqa: ANN401 - whatever JSON the script yields
        """Return what a script yields, its promise awaited. Raises AssertionError if it throws."""
        answer = self.ask(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key of the keyboard, such as Tab, ArrowRight or Space."""
        code, number, text = _KEYS[key]
        details = {"key": text or key, "code": code, "windowsVirtualKeyCode": number}
        self.ask(
            "Input.dispatchKeyEvent", type="keyDown", **details, **({"text": text} if text else {})
        )
        self.ask("Input.dispatchKeyEvent", type="keyUp", **details)

    def resize(self, width: int, height: int) -> None:
        """Give the page a window of this size in CSS pixels."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def screenshot(self) -> bytes:
        """Return the whole page as PNG."""
        answer = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(answer["data"])

    def pdf(self) -> bytes:
        """Return the page as a printer would get it."""
        answer = self.ask("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        return base64.b64decode(answer["data"])

    def events(self, method: str) -> list[Message]:
        """Return what the page has said of a kind so far."""
        self.run("0")  # all that came before the answer is read by now
        return [
            one["params"]
            for one in self._browser.events
            if one.get("method") == method and one.get("sessionId") == self._session
        ]


_KEYS = {
    "Tab": ("Tab", 9, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "Space": ("Space", 32, " "),
}


@contextmanager
def started(program: str, profile: Path) -> Iterator[Browser]:
    """Start a browser with a profile of its own and end it."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # The browser finds its ends at 3 and 4; the shell puts them there.
    wiring = f'exec 3<&{to_browser[0]} 4>&{from_browser[1]}; exec "$@"'
    arguments = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
        f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking",
        "--force-color-profile=srgb", "--hide-scrollbars",
    ]  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", wiring, "bash", *arguments],
        pass_fds=(to_browser[0], from_browser[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser[0])
    os.close(from_browser[1])
    try:
        browser = Browser(to_browser[1], from_browser[0])
        yield browser
        browser.ask("Browser.close")
        process.wait(timeout=ANSWER_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])


@contextmanager
def opened(
    browser: Browser, path: Path, *, has_script: bool = True, downloads: Path | None = None
) -> Iterator[Page]:
    """Open a file as a page and wait until it is loaded; requests and errors are kept."""
    target = browser.ask("Target.createTarget", url="about:blank")["targetId"]
    session = browser.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    page = Page(browser, session)
    for domain in ("Page", "Network", "Runtime", "Log"):
        page.ask(f"{domain}.enable")
    page.resize(1280, 900)
    page.ask("Emulation.setScriptExecutionDisabled", value=not has_script)
    if downloads is not None:
        browser.ask(
            "Browser.setDownloadBehavior",
            behavior="allow", downloadPath=str(downloads), eventsEnabled=True,
        )  # fmt: skip
    page.ask("Page.navigate", url=path.as_uri())
    browser.wait_for("Page.loadEventFired", session)
    try:
        yield page
    finally:
        browser.ask("Target.closeTarget", targetId=target)
