"""A real browser without a window: Chromium, over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tornado.websocket import WebSocketClientConnection, websocket_connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """One page."""

    def __init__(self, address: str) -> None:
        self.runner = asyncio.Runner()
        self.connection = self.runner.run(connected(address))
        self.calls = 0

    def call(self, method: str, **parameters: Any) -> Any:
        async def talk() -> Any:
            self.calls += 1
            await self.connection.write_message(json.dumps({"id": self.calls, "method": method, "params": parameters}))
            while True:
                message = json.loads(await self.connection.read_message() or "{}")
                if message.get("id") == self.calls:
                    return message["result"]

        return self.runner.run(talk())

    def close(self) -> None:
        async def end() -> None:
            self.connection.close()
            while await self.connection.read_message() is not None:
                pass

        with self.runner:
            self.runner.run(end())

    def run(self, script: str) -> Any:
        """The value of an expression; of a promise, what it resolves to."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> Any:
        """Until the expression is true."""
        begin = time.monotonic()
        while not (found := self.run(script)):
            assert time.monotonic() - begin < seconds, script
            time.sleep(0.1)
        return found

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({url!r}) && document.readyState == 'complete'")

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


async def connected(address: str) -> WebSocketClientConnection:
    return await websocket_connect(address)


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Args: folder: for what the browser keeps."""
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--window-size=900,700"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder}"]  # no internet
    with subprocess.Popen([CHROMIUM, *flags, "about:blank"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "DevTools listening on ws://" in line:
                    break
            port = line.rpartition("ws://")[2].partition("/")[0]
            with urlopen(f"http://{port}/json/list") as listed:
                pages = [one for one in json.load(listed) if one["type"] == "page"]
            with closing(Browser(pages[0]["webSocketDebuggerUrl"])) as one:
                yield one
        finally:
            process.terminate()
            process.stderr.close()
            process.wait(20)
