"""The API server's JSON: what is kept of it, what is not, and what it may leave out."""

import msgspec
import pytest

from agent.collect.discovery.kubernetes.objects import Port, decode_page
from tests.support.kubernetes_api import container, dumped, pod


def test_a_pod_with_the_fields_we_use() -> None:
    shown = pod(
        "a",
        container(ports=[(8000, "http")], args=["--port", "8000"], env={"RANK": "1", "HF": "x"}, container_id="a" * 64),
        labels={"l": "1"},
        annotations={"n": "2"},
    )
    shown["spec"]["initContainers"] = [
        {"name": "once", "image": "i"},
        {"name": "sidecar", "image": "i", "restartPolicy": "Always"},
    ]
    (found,), more = decode_page(dumped({"metadata": {"continue": "next"}, "items": [shown]}))
    assert more == "next"
    assert (found.namespace, found.name, found.uid, found.address) == ("serving", "a", "uid-of-a", "10.244.0.5")
    assert (found.labels, found.annotations) == ({"l": "1"}, {"n": "2"})
    engine, sidecar = found.containers
    assert engine.container_id == "a" * 64
    assert engine.command == ("--port", "8000")
    assert engine.ports == (Port(8000, "http"),)
    assert engine.environ == {"RANK": "1"}
    assert (sidecar.name, sidecar.container_id) == ("sidecar", "")


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed", "Unknown"])
def test_only_running_pods(phase: str) -> None:
    assert decode_page(dumped({"items": [pod("a", container(), phase=phase)]})) == ([], "")


def test_what_may_be_missing() -> None:
    least = {"metadata": {}, "spec": {}, "status": {"phase": "Running"}}
    (found,), more = decode_page(dumped({"items": [least], "metadata": {}}))
    assert (found.address, found.containers, more) == ("", (), "")
    assert decode_page(b"{}") == decode_page(b'{"items":null}') == ([], "")
    udp = pod("a", container(ports=[(1, "x")]))
    udp["spec"]["containers"][0]["ports"][0]["protocol"] = "UDP"
    assert decode_page(dumped({"items": [udp]}))[0][0].containers[0].ports == ()


@pytest.mark.parametrize("body", [b"", b"[]", b'{"items":5}', b'{"items":[{"spec":{}}]}'])
def test_other_json_is_an_error(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_page(body)
