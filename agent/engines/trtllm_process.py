"""Command lines of TensorRT-LLM's processes in, what they say about their engine out.

One engine over several nodes runs as one MPI job: under Slurm all its processes have the same job and step, on
Kubernetes the same LeaderWorkerSet leader; with a bare ``mpirun`` nothing that they all have tells jobs apart. MPI
workers that the server starts itself (``python -m mpi4py.futures.server``) look like anybody's: without a variable of
TensorRT-LLM only their parent tells what they are.
"""

from collections.abc import Mapping, Sequence

from agent.core.readings import EngineRole
from agent.engines.arguments import number, option
from agent.engines.contract import Process, Recognised

_LAUNCHER = "trtllm-llmapi-launch"  # on each rank: runs the server on the first, a worker on the others
_WORKER_MODULES = ("tensorrt_llm.llmapi.mgmn_worker_node", "tensorrt_llm.llmapi.mgmn_leader_node")
_MPI_WORKER = "mpi4py.futures.server"
_SERVER_MODULE = "tensorrt_llm.commands.serve"
_ORCHESTRATORS = ("disaggregated", "disaggregated_mpi_worker")
_COMMANDS = ("serve", "mm_embedding_serve", "embeddings", "visual_gen")
_ROLES: Mapping[str, EngineRole] = {"context": "prefill", "generation": "decode"}


def recognise(process: Process) -> Recognised | None:
    """``trtllm-serve``, ``python -m tensorrt_llm.commands.serve``, the launcher and the MPI workers.

    ``trtllm-serve disaggregated`` passes requests on and has no GPU: it is none. Which part of the work a server does
    only ``--server_role`` tells; the YAML options are not seen.
    """
    words = _words(process.argv)
    if words is None and not _is_worker(process):
        return None
    group, nodes = _group(process.environ)  # only now: a stranger's environment is none of our business
    if words is None or _is_worker(process):
        return Recognised(part="worker", group=group, nodes=nodes)
    command = words[0] if words and words[0] in (*_COMMANDS, *_ORCHESTRATORS) else "serve"
    if command in _ORCHESTRATORS:
        return Recognised(part="worker", group=group, nodes=nodes) if command != "disaggregated" else None
    arguments = words[1:] if words and words[0] == command else words
    positional = arguments[0] if arguments and not arguments[0].startswith("-") else None
    return Recognised(
        port=number(words, "--port"),
        group=group,
        nodes=nodes,
        role=_ROLES.get((option(words, "--server_role") or "").lower()),
        model=option(words, "--served_model_name") or positional,
    )


def _words(argv: Sequence[str]) -> Sequence[str] | None:
    """The arguments of a server's command line; None: it is no server."""
    for at, word in enumerate(argv[:4]):
        runs = at == 0 or argv[0].rpartition("/")[2].startswith(("python", "pypy"))
        if word.rpartition("/")[2] == "trtllm-serve" and runs:
            return argv[at + 1 :]
        if word == _SERVER_MODULE and at and argv[at - 1] == "-m":
            return argv[at + 1 :]
    return None


def _is_worker(process: Process) -> bool:
    first = process.argv[:4]
    if any(word.rpartition("/")[2] == _LAUNCHER for word in first[:2]):
        return True
    modules = {word for at, word in enumerate(first) if at and first[at - 1] == "-m"}
    if _MPI_WORKER in modules:
        return any(name.startswith("TLLM_") for name in process.environ)
    return not modules.isdisjoint(_WORKER_MODULES)


def _group(environ: Mapping[str, str]) -> tuple[str | None, int | None]:
    """What is the same on all nodes of a job that has several, and how many they are."""
    job, step = (environ.get(f"SLURM_{name}", "") for name in ("JOB_ID", "STEP_ID"))
    for group, size in (
        (f"slurm:{job}.{step}" if job else "", environ.get("SLURM_NNODES", "")),
        (environ.get("LWS_LEADER_ADDRESS", ""), environ.get("LWS_GROUP_SIZE", "")),
    ):
        if group and size.isdecimal() and int(size) > 1:
            return group, int(size)
    return None, None
