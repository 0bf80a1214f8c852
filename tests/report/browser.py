"""A headless Chromium spoken to through a pipe (DevTools protocol): opens a page, reports its errors, runs scripts."""

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW_TO_GET = (
    "no Chromium found: install it (Debian, Ubuntu: apt-get install -y chromium), or set KDNATIVE_NO_BROWSER=1 to skip "
    "the tests that need it"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


def find_chromium() -> str | None:
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """Use as a context manager; one page at a time."""

    def __init__(self, program: str, patience: float = 60.0):
        self.program, self.patience = program, patience
        self.events, self.buffer, self.last = [], b"", 0

    def __enter__(self):
        self.profile = tempfile.mkdtemp(prefix="kdnative-browser-")
        commands, self.send_end = os.pipe()
        self.receive_end, answers = os.pipe()
        # The browser reads its descriptor 3 and writes its descriptor 4; ours must not lie there already.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
        os.close(commands), os.close(answers)

        def place():
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [self.program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            pass_fds=(3, 4),
        )
        os.close(ends[0]), os.close(ends[1])
        target = self.command("Target.createTarget", url="about:blank", session=None)["targetId"]
        attached = self.command("Target.attachToTarget", targetId=target, flatten=True, session=None)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.command(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        try:
            self.command("Browser.close", session=None)
            self.process.wait(timeout=20)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.send_end), os.close(self.receive_end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def command(self, method, session="", **parameters):
        """Sends a command and returns its result; events that arrive meanwhile are kept."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = self.session
        os.write(self.send_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, page: Path | str) -> None:
        """Loads a file, or an address, and waits until it is complete."""
        self.events.clear()
        self.command("Page.navigate", url=page.resolve().as_uri() if isinstance(page, Path) else page)
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, script: str):
        """The value of a JavaScript expression in the page."""
        found = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def errors(self) -> list:
        """Uncaught exceptions, console errors and warnings, and messages of the browser about the page."""
        self.evaluate("new Promise((done) => setTimeout(done, 100))")
        wanted = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in wanted]

    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        sent = [event for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def _receive(self) -> dict:
        end = time.monotonic() + self.patience
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.receive_end], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self.receive_end, 1 << 16) if ready else b""
            if not part:
                raise TimeoutError(f"{self.program} gave no answer (exit code {self.process.poll()})")
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)
