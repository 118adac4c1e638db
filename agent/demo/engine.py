"""`python -m agent.demo.engine MODEL PORT`: llama.cpp's own server on loopback, until its parent ends."""

import signal
import sys
from pathlib import Path

from agent.clock import end_with_parent

MODEL_NAME = "engineroom-demo"
PROCESS_NAME = "llama-server"
PARALLEL = 8


def main(arguments: list[str]) -> int:
    """Serve the model at `arguments[0]` on port `arguments[1]`, with /metrics on."""
    import xllamacpp

    end_with_parent()
    # Its command line is Python's: by this name, which everybody may read, it is recognised as what it is.
    Path("/proc/self/comm").write_text(PROCESS_NAME)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = arguments[0]
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = int(arguments[1])
    parameters.endpoint_metrics = True
    parameters.n_parallel = PARALLEL
    parameters.n_ctx = 4096 * PARALLEL
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    return 0


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    sys.exit(main(sys.argv[1:]))
