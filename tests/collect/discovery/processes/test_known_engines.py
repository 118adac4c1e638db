"""Process trees as the real engines make them, with the real engine files: one engine each, with all its processes."""

from pathlib import Path

import pytest

from agent.collect.discovery.processes.engines import FoundEngine, engines_of
from agent.collect.discovery.processes.table import ProcessTable
from tests.support.made_up_engines import line
from tests.support.proc_tree import ProcTree

ONE = f"0::/kubepods/pod11111111-2222-3333-4444-555555555555/{'a' * 64}\n"


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    tree = ProcTree(tmp_path)
    ports = (8000, 8001, 8002, 8080, 11434, 30000, 40001)
    tree.network("host", [("127.0.0.1", port, port) for port in ports], ours=True)
    tree.process(1, name="init", parent=0, network="host")
    return tree


def found(
    tree: ProcTree, *processes: tuple[int, int, str], listening: tuple[int, int] = (0, 0), **environ: str
) -> list[FoundEngine]:
    """`processes`: (pid, parent, command line or title); `listening`: (pid, port)."""
    variables = "".join(f"{name}={value}\0" for name, value in environ.items())
    for pid, parent, words in processes:
        tree.process(
            pid,
            ONE,
            parent=parent,
            name=words.split()[0].rpartition("/")[2][:15],
            cmdline=line(*words.split()),
            network="host",
            sockets=[listening[1]] * (pid == listening[0]),
            environ=variables,
        )
    table = ProcessTable(tree.root)
    table.look()
    return engines_of(table)


def test_vllm_with_its_core_and_workers(tree: ProcTree) -> None:
    (one,) = found(
        tree,
        (10, 1, "/usr/bin/python3 /usr/local/bin/vllm serve Qwen/Qwen3-8B --tensor-parallel-size 2"),
        (11, 10, "VLLM::EngineCore"),
        (12, 11, "VLLM::Worker_TP0"),
        (13, 11, "VLLM::Worker_TP1"),
        listening=(10, 8000),
    )
    assert (one.engine.kind, one.part, one.pids, one.port) == ("vllm", "server", (10, 11, 12, 13), 8000)


def test_vllm_on_the_second_node(tree: ProcTree) -> None:
    words = "vllm serve m --headless --nnodes 2 --node-rank 1 --master-addr 10.0.0.1 --master-port 29501"
    (one,) = found(tree, (10, 1, f"/usr/bin/python3 /usr/local/bin/{words}"), (11, 10, "VLLM::Worker_TP1"))
    assert (one.engine.kind, one.part, one.pids) == ("vllm", "worker", (10, 11))
    assert one.recognised.group == "10.0.0.1:29501"
    assert (one.recognised.nodes, one.recognised.node_rank) == (2, 1)


def test_vllm_on_ray_here_and_elsewhere(tree: ProcTree) -> None:
    raylet = (5, 1, "/ray/raylet/raylet --raylet_socket_name=/tmp/x --gcs-address=10.0.0.1:6379")
    workers = [(pid, 5, "ray::RayWorkerWrapper.execute_method") for pid in (6, 7)]
    (elsewhere,) = found(tree, raylet, *workers)
    assert (elsewhere.engine.kind, elsewhere.part, elsewhere.pids) == ("vllm", "worker", (6, 7))
    assert elsewhere.recognised.group == "10.0.0.1:6379"
    server = (10, 1, "/usr/bin/python3 /usr/local/bin/vllm serve m --distributed-executor-backend ray")
    (here,) = found(tree, server, listening=(10, 8000))
    assert (here.part, here.pids, here.recognised.group) == ("server", (10, 6, 7), "10.0.0.1:6379")


def test_training_on_ray_is_none_of_ours(tree: ProcTree) -> None:
    assert found(tree, (5, 1, "/ray/raylet --gcs-address=h:1"), (6, 5, "ray::RayTrainWorker.execute")) == []
    assert found(tree, (7, 1, "/usr/bin/python3 /usr/bin/torchrun --nnodes 2 train.py")) == []


def test_sglang_with_its_schedulers(tree: ProcTree) -> None:
    (one,) = found(
        tree,
        (10, 1, "python3 -m sglang.launch_server --model-path m --tp 2"),
        (11, 10, "sglang::scheduler_TP0"),
        (12, 10, "sglang::scheduler_TP1"),
        (13, 10, "sglang::detokenizer"),
        listening=(10, 30000),
    )
    assert (one.engine.kind, one.part, one.pids, one.port) == ("sglang", "server", (10, 11, 12, 13), 30000)


def test_ollama_with_its_runner(tree: ProcTree) -> None:
    child = "/usr/lib/ollama/llama-server --model /m/blobs/sha256-00 --port 40001 --host 127.0.0.1 --offline --no-webui"
    (one,) = found(tree, (10, 1, "/usr/bin/ollama serve"), (11, 10, child), listening=(10, 11434))
    assert (one.engine.kind, one.part, one.pids, one.port) == ("ollama", "server", (10, 11), 11434)


def test_ollama_whose_runner_shows_metrics(tree: ProcTree) -> None:
    child = "/usr/lib/ollama/llama-server --model /m/blobs/sha256-00 --port 40001 --host 127.0.0.1 --offline --no-webui"
    tree.network("host", [("127.0.0.1", 11434, 11434), ("127.0.0.1", 40001, 40001)], ours=True)
    found(tree, (10, 1, "/usr/bin/ollama serve"), listening=(10, 11434))
    outer, inner = found(tree, (11, 10, child), listening=(11, 40001), LLAMA_ARG_ENDPOINT_METRICS="1")
    assert (outer.engine.kind, outer.pids) == ("ollama", (10, 11))
    assert (inner.engine.kind, inner.port, inner.pids, inner.inside) == ("llamacpp", 40001, (), 10)


def test_trtllm_serve_under_its_launcher(tree: ProcTree) -> None:
    (one,) = found(
        tree,
        (9, 1, "/bin/bash /usr/local/bin/trtllm-llmapi-launch trtllm-serve m"),
        (10, 9, "/usr/bin/python3 /usr/local/bin/trtllm-serve m --port 8001"),
        (11, 10, "python3 -m mpi4py.futures.server"),
        listening=(10, 8001),
    )
    assert (one.engine.kind, one.part, one.port) == ("trtllm", "server", 8001)
    assert set(one.pids) == {9, 10, 11}


def test_triton(tree: ProcTree) -> None:
    (one,) = found(tree, (10, 1, "tritonserver --model-repository=/m"), listening=(10, 8000))
    assert (one.engine.kind, one.port) == ("triton", 8000)


@pytest.mark.parametrize(
    "words",
    [
        "grep vllm serve",
        "vim vllm",
        "bash -c sleep",
        "tail -f /var/log/ollama/serve.log",
        "ollama run llama3",
        "python3 -m http.server 8000",
        "kubectl logs vllm-0",
        "docker run vllm/vllm-openai --port 8000",
        "sshd: user [priv]",
    ],
)
def test_what_only_speaks_of_engines_is_none(tree: ProcTree, words: str) -> None:
    assert found(tree, (10, 1, words)) == []
