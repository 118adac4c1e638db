"""Command lines and titles of SGLang's processes in, what they say about their engine out.

A title takes the place of the command line: a scheduler says nothing of its group, its parent's command line does.
Options in a file (``--config``) are not seen. A router or gateway is no engine: it has no GPU of its own.
"""

from collections.abc import Mapping, Sequence

from agent.engines.addresses import LOOPBACK
from agent.engines.arguments import given, number, option
from agent.engines.contract import Process, Recognised
from agent.engines.signals import ROLES

_TITLE = "sglang::"  # sglang::scheduler_DP0_TP1, sglang::detokenizer, sglang::data_parallel_controller, ...
_MODULES = ("sglang.launch_server", "sglang.srt.entrypoints.http_server")


def recognise(process: Process) -> Recognised | None:
    """``python -m sglang.launch_server``, ``sglang serve``, and the children with titles.

    The HTTP server of a node that is not the first (``--node-rank 1``) answers health probes only: it is a worker.
    """
    argv = process.argv
    if argv and argv[0].startswith(_TITLE):
        return Recognised(part="worker")
    words = _words(argv)
    if words is None:
        return None
    nodes, rank = number(words, "--nnodes"), number(words, "--node-rank")
    group = meeting(words, process.environ) if nodes is not None and nodes > 1 else None
    worker = (nodes or 1) > 1 and (rank or 0) > 0
    positional = words[0] if words and not words[0].startswith("-") else None
    return Recognised(
        tls=given(words, "--ssl-certfile"),
        part="worker" if worker else "server",
        port=None if worker else number(words, "--port"),
        group=group,
        nodes=nodes if group else None,
        node_rank=(rank or 0) if group else None,
        role=ROLES.get(option(words, "--disaggregation-mode")),
        model=option(words, "--served-model-name") or option(words, "--model-path", "--model") or positional,
    )


def _words(argv: Sequence[str]) -> Sequence[str] | None:
    """The arguments of a server's command line; None: it is no server."""
    for at, word in enumerate(argv[:5]):
        runs = at == 0 or argv[0].rpartition("/")[2].startswith(("python", "pypy"))
        if word in _MODULES and at and argv[at - 1] == "-m":
            return argv[at + 1 :]
        if word.endswith("/sglang/launch_server.py") and runs:
            return argv[at + 1 :]
        if word.rpartition("/")[2] == "sglang" and runs and argv[at + 1 : at + 2] == ("serve",):
            return argv[at + 2 :]
    return None


def meeting(words: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Where the nodes of one engine meet: all of them are given the same address.

    Else the leader of their LeaderWorkerSet, or what torchrun gives to all.
    """
    address = (option(words, "--dist-init-addr", "--nccl-init-addr") or "").removeprefix("tcp://")
    if address and _is_remote(address.rpartition(":")[0]):
        return address
    if leader := environ.get("LWS_LEADER_ADDRESS"):
        return leader
    host, port = environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", "")
    return f"{host}:{port}" if port and _is_remote(host) else None


def _is_remote(host: str) -> bool:
    """Whether it is an address, and not one that only this node can reach."""
    return bool(host) and host.strip("[]").lower() not in LOOPBACK
