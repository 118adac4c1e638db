"""Two engines that do not exist, for tests of what is the same for all engines."""

from agent.engines.arguments import number, option
from agent.engines.contract import EngineFile, Process, Recognised


def _recognise(kind: str, process: Process) -> Recognised | None:
    """`KIND-server` and `KIND-worker`, as programs or as titles."""
    program = process.argv[0].rpartition("/")[2] if process.argv else ""
    words = (program, process.name)
    if f"{kind}-server" not in words and f"{kind}-worker" not in words:
        return None
    return Recognised(
        part="server" if f"{kind}-server" in words else "worker",
        port=number(process.argv, "--port"),
        metrics_port=number(process.argv, "--metrics-port"),
        group=option(process.argv, "--group"),
        nodes=number(process.argv, "--nodes"),
        node_rank=number(process.argv, "--rank"),
        role="prefill" if process.environ.get("RANK") == "prefill" else None,
        model=option(process.argv, "--model"),
    )


ALPHA = EngineFile(
    kind="alpha",
    title="Alpha",
    read=lambda _page, _origin: [],
    recognise=lambda process: _recognise("alpha", process),
    images=(r"(^|/)alpha($|-)",),
    default_ports=(8000,),
    metrics_paths=("/metrics", "/prometheus/metrics"),
)
BETA = EngineFile(
    kind="beta",
    title="Beta",
    read=lambda _page, _origin: [],
    recognise=lambda process: _recognise("beta", process),
    images=(r"(^|/)beta$",),
    default_ports=(9000,),
    metrics_port=9002,
)
MADE_UP = (ALPHA, BETA)


def line(*words: str) -> str:
    """A command line as /proc/PID/cmdline holds it."""
    return "\0".join(words) + "\0"
