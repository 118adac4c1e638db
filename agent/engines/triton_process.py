"""Command lines of Triton's processes in, what they say about their engine out."""

from agent.engines.arguments import number, option
from agent.engines.contract import Process, Recognised

_OFF = ("false", "0")


def recognise(process: Process) -> Recognised | None:
    """``tritonserver``. Under ``mpirun`` each rank of a TensorRT-LLM model is one; only the first answers."""
    argv = process.argv
    if not argv or argv[0].rpartition("/")[2] != "tritonserver":
        return None
    rank = process.environ.get("OMPI_COMM_WORLD_RANK", "")
    silent = (option(argv, "--allow-http") or "").lower() in _OFF
    if rank not in ("", "0"):
        return Recognised(part="worker")
    return Recognised(
        port=0 if silent else number(argv, "--http-port"),
        metrics_port=number(argv, "--metrics-port"),
    )
