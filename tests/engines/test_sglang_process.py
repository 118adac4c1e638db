"""What SGLang's command lines and titles say."""

import pytest

from agent.engines.contract import Process, Recognised
from agent.engines.sglang_process import recognise

MODULE = "python3 -m sglang.launch_server --model-path Qwen/Qwen3-8B"
NODES = f"{MODULE} --tp 16 --nnodes 2 --dist-init-addr 10.0.0.1:5000"
WORKER = Recognised(part="worker")


def of(command: str, **environ: str) -> Recognised | None:
    return recognise(Process(pid=1, argv=tuple(command.split()), environ=environ))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (MODULE, Recognised(model="Qwen/Qwen3-8B")),
        (f"{MODULE} --port 31000 --served-model-name qwen", Recognised(model="qwen", port=31000)),
        ("/opt/venv/bin/python /x/sglang/launch_server.py --model m --port=1", Recognised(model="m", port=1)),
        ("/usr/bin/python3 /usr/local/bin/sglang serve --model-path m", Recognised(model="m")),
        ("sglang serve Qwen/Qwen3-8B --port 30001", Recognised(model="Qwen/Qwen3-8B", port=30001)),
        (f"{MODULE} --disaggregation-mode prefill", Recognised(model="Qwen/Qwen3-8B", role="prefill")),
        (f"{MODULE} --disaggregation-mode decode", Recognised(model="Qwen/Qwen3-8B", role="decode")),
        (f"{MODULE} --disaggregation-mode null", Recognised(model="Qwen/Qwen3-8B")),
        ("sglang::scheduler_DP1_TP0", WORKER),
        ("sglang::scheduler", WORKER),
        ("sglang::detokenizer", WORKER),
        ("sglang::data_parallel_controller", WORKER),
        ("sglang::tokenizer_worker:4711", WORKER),
    ],
)
def test_recognised(command: str, expected: Recognised) -> None:
    assert of(command) == expected


@pytest.mark.parametrize(
    "command",
    [
        "",
        "python3 -m sglang_router.launch_router --worker-urls http://a:30000",
        "sgl_diffusion::scheduler_0",
        "sglang generate --prompt x",
        "python3 -m sglang.bench_serving --port 30000",
        "grep sglang serve",
        "vim sglang/launch_server.py",
        "torchrun train.py sglang",
    ],
)
def test_not_an_engine(command: str) -> None:
    assert of(command) is None


def test_nodes_of_one_engine_have_one_group() -> None:
    first, second = of(f"{NODES} --node-rank 0 --port 31000"), of(f"{NODES} --node_rank=1")
    assert first is not None
    assert second is not None
    assert first.group == second.group == "10.0.0.1:5000"
    assert (first.part, first.port, first.nodes, first.node_rank) == ("server", 31000, 2, 0)
    assert (second.part, second.port, second.nodes, second.node_rank) == ("worker", None, 2, 1)


def test_group_is_the_leader_of_the_set_where_the_address_is_of_this_node() -> None:
    command = f"{MODULE} --nnodes 2 --dist-init-addr 127.0.0.1:5000 --node-rank 1"
    found = of(command, LWS_LEADER_ADDRESS="s-0.s.ns", LWS_GROUP_SIZE="2")
    assert found is not None
    assert found.group == "s-0.s.ns"
    alone = of(command)
    assert alone is not None
    assert (alone.group, alone.part, alone.node_rank) == (None, "worker", None)  # it meets nobody we could name
    launched = of(f"{MODULE} --nnodes 2", MASTER_ADDR="10.0.0.1", MASTER_PORT="29500")
    assert launched is not None
    assert (launched.group, launched.node_rank) == ("10.0.0.1:29500", 0)


@pytest.mark.parametrize("address", ["10.0.0.1:5000", "tcp://10.0.0.1:5000"])
def test_spelling_of_the_meeting_point(address: str) -> None:
    found = of(f"{MODULE} --nnodes 2 --dist-init-addr {address}")
    assert found is not None
    assert found.group == "10.0.0.1:5000"


def test_one_node_is_no_group() -> None:
    assert of(f"{MODULE} --nnodes 1 --dist-init-addr 10.0.0.1:5000") == Recognised(model="Qwen/Qwen3-8B")


def test_a_certificate_means_tls() -> None:
    said = of("python -m sglang.launch_server --model-path m --ssl-certfile c.pem")
    assert said is not None
    assert said.tls
