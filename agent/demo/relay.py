"""A sick engine: a relay in front of the real one that makes it slow or lets some requests fail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import anyio
from aiohttp import web

from agent.demo.faults import Sickness


@asynccontextmanager
async def relay(engine: str, port: int, sickness: Sickness) -> AsyncIterator[None]:
    """Serve on 127.0.0.1:`port` in front of `engine` while the body runs."""
    count = 0

    async def forward(request: web.Request) -> web.StreamResponse:
        nonlocal count
        if request.path.endswith("/completions"):
            count += 1
            await anyio.sleep(sickness.delay_seconds)
            if sickness.fail_every and count % sickness.fail_every == 0:
                return web.json_response({"error": {"message": "out of memory", "code": 500}}, status=500)
        body = await request.read()
        headers = {"content-type": request.headers.get("content-type", "application/json")}
        async with session.request(request.method, engine + request.path_qs, data=body, headers=headers) as answer:
            response = web.StreamResponse(status=answer.status)
            response.content_type = answer.content_type
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    app = web.Application(client_max_size=16 * 2**20)
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app, access_log=None)
    # The engine closes idle connections after 5 s; a fresh one for each request cannot meet that moment.
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield
        finally:
            await runner.cleanup()
