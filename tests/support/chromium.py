"""A real headless Chromium, spoken to over its DevTools protocol: DOM, screenshots, complaints, requests it made."""

import base64
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from tests.support.components import need

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)


@dataclass(slots=True)
class Tab:
    """One page. `complaints` are console errors, policy violations, failed requests; `requests` every address asked."""

    socket: aiohttp.ClientWebSocketResponse
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    loaded: int = 0
    _last_id: int = 0

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the protocol and its answer; events that come before it are kept."""
        self._last_id += 1
        await self.socket.send_json({"id": self._last_id, "method": method, "params": params})
        with anyio.fail_after(30):
            while True:
                message = await self.socket.receive_json()
                if message.get("id") == self._last_id:
                    if "error" in message:
                        raise RuntimeError(f"{method}: {message['error']['message']}")
                    return dict(message["result"])
                self._note(message)

    async def open(self, url: str, *, width: int = 1280, height: int = 1600, dark: bool = False) -> None:
        """Load a page at a width of CSS pixels and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[theme])
        before = self.loaded
        await self.call("Page.navigate", url=url)
        with anyio.fail_after(30):
            while self.loaded == before:
                self._note(await self.socket.receive_json())

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, expression: str, seconds: float = 15) -> None:
        """Wait until a JavaScript expression is true, looking after every frame the page draws."""
        with anyio.fail_after(seconds):
            while not await self.evaluate(expression):
                await self.evaluate("new Promise(done => setTimeout(done, 50))")

    async def screenshot(self, picture: Path) -> None:
        """The whole page, also what is below the window, as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        await anyio.Path(picture.parent).mkdir(parents=True, exist_ok=True)
        await anyio.Path(picture).write_bytes(base64.b64decode(answer["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Page.loadEventFired":
                self.loaded += 1
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Network.loadingFailed" if not params.get("canceled"):
                self.complaints.append(params["errorText"])
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.complaints.append(params["entry"]["text"])
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(params["args"]))


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    """A Chromium with an empty profile under `folder`, and its one tab; ended with the block."""
    profile = folder / "profile"
    profile.mkdir(parents=True)
    command = [need("chromium"), *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    process = await anyio.open_process(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
    )
    try:
        assert process.stderr is not None
        port = await _debugging_port(process.stderr)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                targets = await answer.json()
            page = next(target for target in targets if target["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                yield tab
                await tab.call("Browser.close")  # so that its helper processes end before it does
                with anyio.move_on_after(10):
                    await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
        with anyio.CancelScope(shield=True):
            await process.aclose()


async def _debugging_port(stderr: Any) -> int:
    """Chromium says ``DevTools listening on ws://127.0.0.1:PORT/...`` once it listens."""
    seen = ""
    with anyio.fail_after(30):
        async for chunk in stderr:
            seen += chunk.decode(errors="replace")
            if "DevTools listening on ws://" in seen and "/devtools/" in seen:
                return int(seen.partition("DevTools listening on ws://")[2].partition("/")[0].rpartition(":")[2])
    raise RuntimeError(f"Chromium ended: {seen}")
