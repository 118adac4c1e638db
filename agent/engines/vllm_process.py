"""Command lines, titles and environments of vLLM's processes in, what they say about their engine out.

What they look like (read in the code of 0.33 and of 0.10; Ray's titles seen with Ray 2.60):
- A server keeps its command line: ``vllm serve``, ``python -m vllm.entrypoints.openai.api_server``, ``vllm-rs``.
- Since 0.10.1 its children have titles: ``VLLM::EngineCore``, ``VLLM::EngineCore_DP1``, ``VLLM::Worker_TP0_EP0``,
  ``VLLM::APIServer_0``, ``VLLM::DPCoordinator``; before, and under another VLLM_PROCESS_NAME_PREFIX, only their parent
  tells what they are. They say nothing of the group: that is on the command line of their parent on the same node.
- On Ray, actors are titled ``ray::Class``, ``ray::Class.method`` or ``ray::name:Class.method``.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agent.core.readings import EngineRole
from agent.engines.addresses import LOOPBACK
from agent.engines.arguments import given, number, option
from agent.engines.contract import Process, Recognised

_TITLE = "VLLM::"
_RANK_SERVER = "VLLM::APIServer_DP"  # --data-parallel-multi-port-external-lb: each rank answers HTTP, on its own port
_RAY_ACTOR = re.compile(r"ray::(.*:)?(RayWorker(Proc|Wrapper|Vllm)|(DP|DPMoE)?EngineCoreActor)(\.|\(|$)")
_RAY_CLUSTER = (re.compile(r"--cluster[-_]id=([0-9A-Za-z]+)"), re.compile(r"--gcs[-_]address=([^\s\"']+)"))

_MODULES = ("vllm.entrypoints.openai.api_server", "vllm.entrypoints.api_server")
_CLI = "vllm.entrypoints.cli.main"

_MASTER_PORT = 29501
_RPC_PORT = 29550
_ROLES: Mapping[str | None, EngineRole] = {"kv_producer": "prefill", "kv_consumer": "decode"}

_Group = tuple[str | None, int | None, int | None]  # meeting point, nodes, rank of this node
_ALONE: _Group = (None, None, None)


def recognise(process: Process) -> Recognised | None:
    """What a process says if it is vLLM's. `port` 0: it listens on a Unix socket only.

    Options in a file (``--config``) are not seen. One that several nodes share gives the group: the address at which
    vLLM's processes meet, else the LeaderWorkerSet's leader, else the Ray cluster.
    """
    first = process.argv[0] if process.argv else ""
    if first.startswith(_TITLE):
        return Recognised(part="server" if first.startswith(_RANK_SERVER) else "worker")
    if _RAY_ACTOR.match(first):
        group, nodes, rank = _of_set(process.environ) or (_ray_address(process.environ), None, None)
        return Recognised(part="worker", group=group, nodes=nodes, node_rank=rank)
    words = _words(process.argv)
    return None if words is None else _server(words, process.environ)


def ray_cluster(argv: Sequence[str]) -> str | None:
    """What a raylet's command line calls its cluster, the same on all its nodes; None for another command.

    The cluster's id where it is told (Ray 2.7 and later), else the address of its control store, which may be a name on
    one node and a number on another.
    """
    if not argv or argv[0].rpartition("/")[2] != "raylet":
        return None
    text = " ".join(argv)
    found = (pattern.search(text) for pattern in _RAY_CLUSTER)
    return next((match[1] for match in found if match), None)


def _server(words: Sequence[str], environ: Mapping[str, str]) -> Recognised:
    headless = given(words, "--headless")
    group, nodes, rank = _meeting(words) or _of_set(environ) or _on_ray(words, environ)
    positional = words[0] if words and not words[0].startswith("-") else None
    return Recognised(
        tls=given(words, "--ssl-certfile"),
        part="worker" if headless else "server",
        port=None if headless else 0 if given(words, "--uds") else number(words, "--port"),
        group=group,
        nodes=nodes,
        node_rank=rank,
        role=_role(words),
        model=option(words, "--served-model-name") or positional or option(words, "--model"),
    )


def _words(argv: Sequence[str]) -> Sequence[str] | None:
    """The arguments of a server's command line, the model first where it is not an option's; None: it is no server."""
    for at, word in enumerate(argv[:4]):
        program, follows = word.rpartition("/")[2], argv[at + 1 : at + 2]
        runs = at == 0 or argv[0].rpartition("/")[2].startswith(("python", "pypy"))
        if at and word in _MODULES and argv[at - 1] == "-m":
            return argv[at + 1 :]
        if ((program == "vllm" and runs) or (word == _CLI and argv[at - 1] == "-m")) and follows == ("serve",):
            return argv[at + 2 :]
        if program == "vllm-rs" and at == 0:
            return {"serve": argv[2:], "frontend": _of_frontend(argv)}.get(next(iter(follows), ""))
    return None


def _of_frontend(argv: Sequence[str]) -> Sequence[str]:
    """The arguments that vLLM passes to its Rust front end as one JSON object, as words."""
    try:
        told = json.loads(option(argv, "--args-json") or "{}")
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        return ()
    model = told.pop("model_tag", None)
    words = [model] if isinstance(model, str) else []
    return (*words, *(word for name, value in told.items() for word in _as_words(f"--{name}", value)))


def _as_words(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, bool) or value is None:
        return (name,) if value else ()
    if isinstance(value, list):
        return (name, *map(str, value))
    return (name, json.dumps(value) if isinstance(value, dict) else str(value))


def _meeting(words: Sequence[str]) -> _Group | None:
    """From the options of an engine over several nodes; all its nodes are given the same addresses."""
    nodes = number(words, "--nnodes", "-n")
    if nodes is not None and nodes > 1:
        address = option(words, "--master-addr")
        meeting = _remote(address, number(words, "--master-port") or _MASTER_PORT)
        return (meeting, nodes, number(words, "--node-rank", "-r") or 0) if meeting else None
    size = number(words, "--data-parallel-size", "-dp") or 1
    here = number(words, "--data-parallel-size-local", "-dpl")
    if number(words, "--data-parallel-rank", "-dpn") is not None:
        here = None  # one server for each rank: how many of them a node has, none of them knows
    elif here is None or here >= size:
        return None  # all of its ranks are here
    address = option(words, "--data-parallel-address", "-dpa") or option(words, "--master-addr")
    meeting = _remote(address, number(words, "--data-parallel-rpc-port", "-dpp") or _RPC_PORT)
    if meeting is None or size < 2:
        return None
    start = number(words, "--data-parallel-start-rank", "-dpr") or 0
    return meeting, (size // here if here and size % here == 0 else None), (start // here if here else None)


def _remote(address: str | None, port: int) -> str | None:
    """`host:port`; None for an address that only this node can reach."""
    if not address or address.lower() in LOOPBACK:
        return None
    return f"[{address}]:{port}" if ":" in address and not address.startswith("[") else f"{address}:{port}"


def _of_set(environ: Mapping[str, str]) -> _Group | None:
    """From the environment that a Kubernetes LeaderWorkerSet gives to all pods of one group."""
    leader, size, at = (environ.get(f"LWS_{name}", "") for name in ("LEADER_ADDRESS", "GROUP_SIZE", "WORKER_INDEX"))
    if not leader or not size.isdecimal() or int(size) < 2:
        return None
    return leader, int(size), int(at) if at.isdecimal() else None


def _on_ray(words: Sequence[str], environ: Mapping[str, str]) -> _Group:
    backends = option(words, "--distributed-executor-backend"), option(words, "--data-parallel-backend", "-dpb")
    return (_ray_address(environ), None, None) if "ray" in backends else _ALONE


def _ray_address(environ: Mapping[str, str]) -> str | None:
    """The cluster a process was told to join; `auto`, `local` and the client's `ray://` say not which one it is."""
    address = environ.get("RAY_ADDRESS", "")
    return address if address and "//" not in address and address not in ("auto", "local") else None


def _role(words: Sequence[str]) -> EngineRole | None:
    """Which part of the work it does, where its transfer of KV blocks goes one way only."""
    role = option(words, "--kv-transfer-config.kv_role")
    try:
        told = json.loads(option(words, "--kv-transfer-config") or "{}")
    except ValueError:
        told = {}
    if isinstance(told, dict) and isinstance(told.get("kv_role"), str):
        role = told["kv_role"]
    return _ROLES.get(role)
