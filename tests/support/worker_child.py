"""A stand-in for one worker, a process: `-m tests.support.worker_child INDEX ADDRESS ADMIN_SOCKET BEHAVIOUR`.

BEHAVIOUR: `good`; `refuse` (ends with status 2); `die` (ends with status 7 at once); `stubborn` (heeds no SIGTERM);
`unready` (its readyz is 503).
"""

import os
import signal
import sys
from pathlib import Path

import anyio
from aiohttp import web

from agent.settings import split_address
from agent.sidecar.workers.workers import Command, end_with_parent

ROOT = Path(__file__).resolve().parents[2]
ENDS = {"refuse": 2, "die": 7}


def command(folder: Path, behaviour: str = "good") -> Command:
    """A command for `running_workers` whose workers have their admin sockets below `folder`."""

    def of_worker(index: int, address: str) -> list[str]:
        admin = folder / f"worker-{index}" / "admin.sock"
        return [sys.executable, "-m", __name__, str(index), address, str(admin), behaviour]

    return of_worker


def alive(number: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def _serve(index: int, address: str, admin: Path, behaviour: str) -> None:
    host, port = split_address(address)
    served = 0

    async def public(request: web.Request) -> web.Response:
        nonlocal served
        served += 1
        if request.path == "/die":
            os._exit(9)
        return web.Response(text=f"{index} {os.getpid()}", headers={"connection": "close"})

    async def inside(request: web.Request) -> web.Response:
        if request.path == "/readyz":
            ready = behaviour != "unready"
            return web.Response(
                text="ready\nupstream: no failure seen\n" if ready else "not ready: mood\n",
                status=200 if ready else 503,
            )
        if request.path == "/metrics":
            return web.Response(text=_PAGE.format(served=served, index=index))
        which = await request.json()
        done = request.path.removeprefix("/admin/v1/dlq/").replace("replay", "replayed").replace("discard", "discarded")
        return web.json_response({done: 10 if which.get("all") else len(which["numbers"])})

    admin.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    runners = []
    for handler in (inside, public):
        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", handler)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        runners.append(runner)
    # The admin comes last: who is ready takes connections.
    await web.TCPSite(runners[1], host, port, reuse_port=True).start()
    await web.UnixSite(runners[0], str(admin)).start()
    async with anyio.create_task_group() as group:
        group.start_soon(end_with_parent)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                if behaviour != "stubborn":
                    break
        group.cancel_scope.cancel()
    for runner in runners:
        await runner.cleanup()


_PAGE = """\
# HELP engineroom_sidecar_forwarded_total Requests.
# TYPE engineroom_sidecar_forwarded_total counter
engineroom_sidecar_forwarded_total {served}
# HELP engineroom_sidecar_requests_in_flight Requests now.
# TYPE engineroom_sidecar_requests_in_flight gauge
engineroom_sidecar_requests_in_flight {index}
# HELP process_open_fds Files.
# TYPE process_open_fds gauge
process_open_fds 5
"""

if __name__ == "__main__":
    number, listen, socket_path, what = sys.argv[1:]
    if what in ENDS:
        sys.exit(ENDS[what])
    anyio.run(_serve, int(number), listen, Path(socket_path), what, backend_options={"use_uvloop": True})
