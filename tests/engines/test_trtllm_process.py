"""What TensorRT-LLM's command lines and environments say."""

import pytest

from agent.engines.contract import Process, Recognised
from agent.engines.trtllm_process import recognise

WORKER = Recognised(part="worker")


def of(command: str, **environ: str) -> Recognised | None:
    return recognise(Process(pid=1, argv=tuple(command.split()), environ=environ))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/usr/bin/python /usr/local/bin/trtllm-serve TinyLlama", Recognised(model="TinyLlama")),
        ("trtllm-serve serve /models/llama --port 9000 --config c.yaml", Recognised(model="/models/llama", port=9000)),
        ("trtllm-serve m --server_role CONTEXT --port=8001", Recognised(model="m", port=8001, role="prefill")),
        ("trtllm-serve m --server_role generation", Recognised(model="m", role="decode")),
        ("trtllm-serve /models/x --served_model_name llama", Recognised(model="llama")),
        ("python -m tensorrt_llm.commands.serve serve m", Recognised(model="m")),
        ("trtllm-serve disaggregated_mpi_worker -c disagg.yaml", WORKER),
        ("/bin/bash /usr/local/bin/trtllm-llmapi-launch trtllm-serve m --port 8000", WORKER),
        ("python3 -m tensorrt_llm.llmapi.mgmn_worker_node", WORKER),
        ("python3 -m tensorrt_llm.llmapi.mgmn_leader_node", WORKER),
    ],
)
def test_recognised(command: str, expected: Recognised) -> None:
    assert of(command) == expected


@pytest.mark.parametrize(
    "command",
    [
        "",
        "trtllm-serve disaggregated -c disagg.yaml",
        "trtllm-bench --model m throughput",
        "trtllm-build --checkpoint_dir x",
        "python3 -m mpi4py.futures.server",
        "python3 -m tensorrt_llm.llmapi.other",
        "mpirun -n 2 python train.py",
        "less trtllm-serve",
    ],
)
def test_not_an_engine(command: str) -> None:
    assert of(command) is None


def test_mpi_worker_is_known_by_its_environment() -> None:
    command = "/usr/bin/python3 -R -m mpi4py.futures.server"
    assert of(command, TLLM_SPAWN_EXTRA_MAIN_PROCESS="1") == WORKER
    assert of(command, RANK="1") is None


def test_processes_of_one_job_over_several_nodes_have_one_group() -> None:
    job = {"SLURM_JOB_ID": "4711", "SLURM_STEP_ID": "0", "SLURM_NNODES": "2"}
    server, worker = of("trtllm-serve m", **job), of("python3 -m tensorrt_llm.llmapi.mgmn_worker_node", **job)
    assert server == Recognised(model="m", group="slurm:4711.0", nodes=2)
    assert worker == Recognised(part="worker", group="slurm:4711.0", nodes=2)
    assert of("trtllm-serve m", **{**job, "SLURM_NNODES": "1"}) == Recognised(model="m")


def test_set_of_pods_is_a_group() -> None:
    found = of("trtllm-serve m", LWS_LEADER_ADDRESS="s-0.s.ns", LWS_GROUP_SIZE="2")
    assert found == Recognised(model="m", group="s-0.s.ns", nodes=2)
    assert of("trtllm-serve m", LWS_LEADER_ADDRESS="s-0.s.ns", LWS_GROUP_SIZE="1") == Recognised(model="m")
