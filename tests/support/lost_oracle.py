"""An engine that notes which requests it was given, and what the ledger must say of each of them after kill -9.

A sidecar passes its own id of a request on (`x-request-id`), so that each one can be followed: it must have exactly one
end in the ledger, its own or `lost_record`. Only one that was killed on its way to the engine is lost without being
noted.
"""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from aiohttp import web

from tests.support.crash_oracle import output_tokens
from tests.support.told_requests import told_requests

LOST = "lost_record"


@asynccontextmanager
async def noting_engine(seen: dict[str, int], longest_seconds: float = 0.3) -> AsyncIterator[str]:
    """Answers each request with its own number, after a while; `seen` gets its id and number. Gives the URL."""
    dice = random.Random(9)

    async def answer(request: web.Request) -> web.Response:
        number = (await request.json())["n"]
        seen[request.headers["x-request-id"]] = number
        await anyio.sleep(dice.uniform(0, longest_seconds))
        usage = {"prompt_tokens": number, "completion_tokens": output_tokens(number)}
        return web.json_response({"model": "m", "choices": [], "usage": usage})

    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Account:
    """What the ledger says, request by request."""

    recorded: int = 0  # with an end of their own
    lost: int = 0
    missing: list[str] = field(default_factory=list)  # the engine had them, the ledger has not
    open: list[str] = field(default_factory=list)  # no end, or one that the agent guessed
    wrong: list[str] = field(default_factory=list)  # the number in the row is another one
    made_up: list[str] = field(default_factory=list)  # an end of their own, and the engine never had them

    @property
    def holds(self) -> bool:
        return not (self.missing or self.open or self.wrong or self.made_up)


def account(ledger: Path, seen: dict[str, int]) -> Account:
    """Compare; to be called when the agent has stopped."""
    found = {one.id: (one.outcome, one.input_tokens) for one in told_requests(ledger)}
    result = Account(missing=[name for name in seen if name not in found])
    for name, (outcome, tokens) in found.items():
        if outcome in (None, "lost"):
            result.open.append(name)
        elif outcome == LOST:
            result.lost += 1
        else:
            result.recorded += 1
            if name not in seen:
                result.made_up.append(name)
            elif outcome == "ok" and tokens != seen[name]:
                result.wrong.append(name)
    return result
