"""What vLLM's processes are, by their command lines, titles and environments."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.contract import Process, Recognised
from agent.engines.vllm_process import ray_cluster, recognise

LONG = (
    "--data-parallel-size 4 --data-parallel-size-local 2 --data-parallel-address=h --data-parallel-rpc-port 13345 "
    "--data-parallel-start-rank 2 --data-parallel-hybrid-lb"
)
KV_PRODUCER = '{"kv_connector":"NixlConnector","kv_role":"kv_producer"}'


def of(line: str, **environ: str) -> Recognised | None:
    return recognise(Process(pid=7, argv=tuple(line.split()), environ=environ))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vllm serve Qwen/Qwen3-0.6B", Recognised(model="Qwen/Qwen3-0.6B")),
        ("vllm serve m --ssl-certfile c.pem --ssl-keyfile=k.pem", Recognised(model="m", tls=True)),
        ("/opt/venv/bin/vllm serve m --port 8001", Recognised(model="m", port=8001)),
        ("/usr/bin/python3 /usr/local/bin/vllm serve m --port=8001", Recognised(model="m", port=8001)),
        ("python3.12 -u -O /usr/local/bin/vllm serve m", Recognised(model="m")),
        ("python -m vllm.entrypoints.cli.main serve m", Recognised(model="m")),
        ("python3 -m vllm.entrypoints.openai.api_server --model m --port 9", Recognised(model="m", port=9)),
        ("python -u -m vllm.entrypoints.openai.api_server", Recognised()),
        ("vllm serve --port 80 --model m", Recognised(model="m", port=80)),
        ("vllm serve path/to/m --served-model-name chat other", Recognised(model="chat")),
        ("vllm serve m --uds /run/vllm.sock", Recognised(model="m", port=0)),
        ("vllm-rs serve m --port 8080", Recognised(model="m", port=8080)),
        ("vllm serve m --port http", Recognised(model="m")),
        ("vllm serve m --config conf.yaml", Recognised(model="m")),
    ],
)
def test_servers(line: str, expected: Recognised) -> None:
    assert of(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "vllm",
        "vllm bench serve --model m",
        "vllm run-batch -i in -o out",
        "vllm launch render m",
        "vllm-rs bench",
        "vllm-rs render m",
        "vllm-rs",
        "python -m vllm.entrypoints.openai.run_batch",
        "python train.py --module vllm.entrypoints.openai.api_server",
        "bash -c vllm_serve",
        "uv run vllm serve m",
        "grep vllm serve",
        "vim vllm serve",
        "sglang::scheduler_TP0",
        "ray::Worker.run",
        "ray::RayTrainWorker._RayTrainWorker__execute",
        "ray::IDLE",
        "ray::ServeReplica:app:Chat",
    ],
)
def test_what_is_no_server_of_vllm(line: str) -> None:
    assert of(line) is None


def test_the_rust_front_end_is_told_by_its_parent_in_json() -> None:
    told = {
        "api_key": "secret",
        "enable_sleep_mode": True,
        "kv_transfer_config": {"kv_role": "kv_consumer"},
        "model_tag": "meta/llama",
        "port": 8123,
        "revision": None,
        "served_model_name": ["llama", "other"],
    }
    argv = ("/w/vllm/vllm-rs", "frontend", "--listen-fd", "3", "--args-json", json.dumps(told))
    expected = Recognised(port=8123, model="llama", role="decode")
    assert recognise(Process(pid=7, argv=argv)) == expected


@pytest.mark.parametrize("told", ["{", "[]", "3", '{"port": "many"}', '{"model_tag": 3}'])
def test_the_rust_front_end_with_arguments_that_cannot_be_read(told: str) -> None:
    assert recognise(Process(pid=7, argv=("vllm-rs", "frontend", "--args-json", told))) == Recognised()


def test_the_rust_front_end_by_hand() -> None:
    assert of("vllm-rs frontend --listen-fd 3") == Recognised()


@pytest.mark.parametrize(
    "title",
    [
        "VLLM::EngineCore",
        "VLLM::EngineCore_DP0",
        "VLLM::Worker",
        "VLLM::Worker_TP0",
        "VLLM::Worker_TP0_EP0",
        "VLLM::Worker_DP1_PP0_TP3",
        "VLLM::DPCoordinator",
        "VLLM::APIServer_0",  # its parent has the command line, and the same socket
        "ray::RayWorkerWrapper.execute_method",
        "ray::RayWorkerWrapper",
        "ray::RayWorkerProc.run",
        "ray::vllm_Worker_4f2a_TP0:RayWorkerProc.__init__",
        "ray::DPMoEEngineCoreActor.run",
        "ray::EngineCoreActor",
    ],
)
def test_titles_of_workers(title: str) -> None:
    padded = (title, "", "", "")  # a title that is shorter than the command line was leaves empty words behind
    assert recognise(Process(pid=7, argv=padded)) == Recognised(part="worker")


def test_a_rank_with_its_own_port_is_a_server() -> None:
    assert of("VLLM::APIServer_DP1") == Recognised(part="server")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--nnodes 2 --node-rank 0 --master-addr 10.0.0.1", ("server", "10.0.0.1:29501", 2, 0)),
        ("-n 2 -r 1 --master-addr 10.0.0.1 --headless", ("worker", "10.0.0.1:29501", 2, 1)),
        ("--nnodes 2 --node_rank 1 --master_addr h --master_port 5 --headless", ("worker", "h:5", 2, 1)),
        ("--nnodes 2 --master-addr fd00::1", ("server", "[fd00::1]:29501", 2, 0)),
        ("--nnodes 1 --master-addr 10.0.0.1", ("server", None, None, None)),
        ("--nnodes 2", ("server", None, None, None)),  # without an address its nodes would not find each other
        ("--nnodes 2 --master-addr 127.0.0.1", ("server", None, None, None)),
        ("-dp 4 -dpl 2 -dpa 10.0.0.1", ("server", "10.0.0.1:29550", 2, 0)),
        ("-dp 4 -dpl 2 -dpa 10.0.0.1 -dpr 2 --headless", ("worker", "10.0.0.1:29550", 2, 1)),
        (LONG, ("server", "h:13345", 2, 1)),
        ("-dp 4 -dpl 2 --master-addr 10.0.0.1", ("server", "10.0.0.1:29550", 2, 0)),
        ("-dp 4 -dpl 0 -dpa 10.0.0.1", ("server", "10.0.0.1:29550", None, None)),  # all ranks are elsewhere
        ("-dp 5 -dpl 2 -dpa 10.0.0.1", ("server", "10.0.0.1:29550", None, 0)),
        ("-dp 4 -dpn 3 -dpa 10.0.0.1", ("server", "10.0.0.1:29550", None, None)),
        ("-dp 4 -dpa 10.0.0.1", ("server", None, None, None)),
        ("-dp 4 -dpl 4 -dpa 10.0.0.1", ("server", None, None, None)),
        ("-dp 4 -dpl 2 -dpa localhost", ("server", None, None, None)),
        ("-dpn 0 -dpa 10.0.0.1", ("server", None, None, None)),
        ("--nnodes 4 -r 3 --master-addr h -dp 2 -dpl 1 -dpa g --headless", ("worker", "h:29501", 4, 3)),
        ("--headless", ("worker", None, None, None)),
    ],
)
def test_groups_over_several_nodes(options: str, expected: tuple[object, ...]) -> None:
    found = of(f"vllm serve m --port 8000 {options}")
    assert found is not None
    assert (found.part, found.group, found.nodes, found.node_rank) == expected
    assert found.port == (None if found.part == "worker" else 8000)


SET = {"LWS_LEADER_ADDRESS": "llm-0.llm.ns", "LWS_GROUP_SIZE": "2"}


@pytest.mark.parametrize("line", ["vllm serve m", "vllm serve m --headless", "ray::RayWorkerProc.run"])
def test_group_of_a_leader_worker_set(line: str) -> None:
    found = of(line, **SET, LWS_WORKER_INDEX="1", RAY_ADDRESS="head:6379")
    assert found is not None
    assert (found.group, found.nodes, found.node_rank) == ("llm-0.llm.ns", 2, 1)


def test_options_come_before_the_leader_worker_set() -> None:
    found = of("vllm serve m --nnodes 2 --node-rank 1 --master-addr 10.0.0.1", **SET)
    assert found is not None
    assert found.group == "10.0.0.1:29501"


@pytest.mark.parametrize("size", ["1", "", "many"])
def test_leader_worker_set_of_one(size: str) -> None:
    assert of("vllm serve m", LWS_LEADER_ADDRESS="a", LWS_GROUP_SIZE=size) == Recognised(model="m")


@pytest.mark.parametrize(
    ("line", "address", "group"),
    [
        ("vllm serve m --distributed-executor-backend ray", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("vllm serve m --data-parallel-backend=ray", "head:6379", "head:6379"),
        ("ray::RayWorkerWrapper.execute_method", "head:6379", "head:6379"),
        ("vllm serve m", "head:6379", None),  # in a pod of a Ray cluster, but not told to use it
        ("vllm serve m --distributed-executor-backend ray", "auto", None),
        ("vllm serve m --distributed-executor-backend ray", "ray://head:10001", None),
        ("vllm serve m --distributed-executor-backend ray", "", None),
    ],
)
def test_group_on_ray(line: str, address: str, group: str | None) -> None:
    found = of(line, RAY_ADDRESS=address)
    assert found is not None
    assert found.group == group


@pytest.mark.parametrize(
    ("argv", "cluster"),
    [
        (("/ray/raylet", "--node_id=1", "--gcs-address=10.0.0.1:6379", "--cluster-id=4f00ab", "--head"), "4f00ab"),
        (("raylet", "--python_worker_command=python w.py --gcs-address=h:6379 --cluster-id=4f00ab"), "4f00ab"),
        (("raylet", "--gcs-address=h:6379"), "h:6379"),
        (("raylet", "--node_id=1"), None),
        (("gcs_server", "--cluster-id=4f00ab"), None),
        ((), None),
    ],
)
def test_cluster_of_a_raylet(argv: tuple[str, ...], cluster: str | None) -> None:
    assert ray_cluster(argv) == cluster


@pytest.mark.parametrize(
    ("words", "role"),
    [
        (("--kv-transfer-config", KV_PRODUCER), "prefill"),
        (("--kv-transfer-config=" + KV_PRODUCER.replace("producer", "consumer"),), "decode"),
        (("--kv-transfer-config", KV_PRODUCER.replace("producer", "both")), None),
        (("--kv-transfer-config.kv_role", "kv_producer"), "prefill"),
        (("--kv_transfer_config", "{'kv_role'}"), None),
        (("--kv_transfer_config", "[]"), None),
        (("--kv_transfer_config", '{"kv_role": 3}'), None),
        ((), None),
    ],
)
def test_role(words: tuple[str, ...], role: str | None) -> None:
    found = recognise(Process(pid=7, argv=("vllm", "serve", "m", *words)))
    assert found is not None
    assert found.role == role


WORDS = st.sampled_from(["vllm", "serve", "-m", "vllm-rs", "frontend", "--args-json", "--port", "-dp", "", "--nnodes"])


@given(st.lists(WORDS | st.text(max_size=12), max_size=8))
def test_no_command_line_is_too_strange(words: list[str]) -> None:
    recognise(Process(pid=7, argv=tuple(words)))
    ray_cluster(words)
