"""DeepSpeed-MII: its parts by their command lines, as MII 0.3.3 and the deepspeed launcher build them."""

import pytest

from agent.engines import deepspeed_mii
from agent.engines.contract import About, Process, Recognised
from tests.support.engine_pages import about_of, read_page

ENGINE = deepspeed_mii.ENGINE
WORKER = Recognised(part="worker")
PART = (
    "python -m mii.launch.multi_gpu_server --deployment-name d --load-balancer-port 50050 --restful-gateway-port 51080 "
    "--restful-gateway-host localhost --restful-gateway-procs 32"
)
CONFIG = "--model-config eyJtb2RlbCI6ICJtIn0="
REPLICA = f"{PART} --server-port 50051 --zmq-port 25555 {CONFIG}"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m mii.entrypoints.openai_api_server", Recognised()),
        (
            "python3 -m mii.entrypoints.openai_api_server --model org/model-7b --port 8100 --tensor-parallel 2",
            Recognised(port=8100, model="org/model-7b"),
        ),
        (
            "/usr/bin/python -u -m mii.entrypoints.api_server --model /models/model-7b --load-balancer localhost:50050",
            Recognised(model="model-7b"),
        ),
        (f"{PART} --restful-gateway {CONFIG}", Recognised(port=51080)),
        (f"{PART} --load-balancer {CONFIG}", WORKER),
        (REPLICA, WORKER),
        (REPLICA.replace("mii.launch", "mii.legacy.launch"), WORKER),
        (
            (
                "/usr/bin/python /usr/bin/deepspeed -i localhost:0,1 --master_port 29500 --master_addr localhost "
                f"--no_ssh_check --no_local_rank --no_python {REPLICA}"
            ),
            WORKER,
        ),
        (
            (
                "/usr/bin/python -u -m deepspeed.launcher.launch --world_info=e30= --master_addr=localhost "
                f"--master_port=29500 --no_python --no_local_rank {REPLICA}"
            ),
            WORKER,
        ),
        # Not ours: training jobs under the same launcher, and programs that only mention MII.
        ("/usr/bin/python /usr/bin/deepspeed --num_gpus 2 train.py --deepspeed ds_config.json", None),
        ("/usr/bin/python -u -m deepspeed.launcher.launch --world_info=e30= train.py --local_rank=0", None),
        ("/usr/bin/python -u train.py --local_rank=0 --deepspeed", None),
        ("vim mii.entrypoints.api_server", None),
        ("python -m mii", None),
        ("python -m", None),
        ("", None),
    ],
)
def test_command_lines(command: str, expected: Recognised | None) -> None:
    assert deepspeed_mii.recognise(Process(pid=1, name="python", argv=tuple(command.split()))) == expected


def test_keys_on_the_command_line_go_nowhere() -> None:
    argv = ("python", "-m", "mii.entrypoints.openai_api_server", "--api-keys", "sk-secret", "--port", "8000")
    assert "sk-secret" not in repr(deepspeed_mii.recognise(Process(pid=1, argv=argv)))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"data": [{"id": "m", "owned_by": "deepspeed-mii"}]}', About(model="m")),
        (b'{"data": [{"id": "m", "owned_by": "vllm"}]}', About()),  # another server's door
        (b'{"data": [{"id": "", "owned_by": "deepspeed-mii"}]}', About()),
        (b'{"data": []}', About()),
        (b'{"data": {"id": "m"}}', About()),
        (b'{"data": [{"id": 7, "owned_by": "deepspeed-mii"}]}', About()),
        (b'{"detail": "Not Found"}', About()),
        (b"<!doctype html>", About()),
    ],
)
def test_about(body: bytes, expected: About) -> None:
    assert about_of(ENGINE, {"/v1/models": body}) == expected


def test_nothing_is_read_because_nothing_is_told() -> None:
    assert about_of(ENGINE, {}) == About()
    assert read_page(ENGINE) == []
    assert read_page(ENGINE, b"requests_total 5\n", {"/v1/models": b'{"data": [{"id": "m"}]}'}) == []


def test_only_harmless_documented_paths_are_asked() -> None:
    assert ENGINE.paths == {"/health", "/healthz", "/v1/models"}
    assert ENGINE.health.ready is None  # its /health says ok while its replicas are dead
    assert "ready" in ENGINE.absent
