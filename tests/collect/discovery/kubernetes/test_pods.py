"""What pods say about engines: which of it is believed, and of which container."""

from typing import Any

import pytest

from agent.collect.discovery.kubernetes.objects import decode_page
from agent.collect.discovery.kubernetes.pods import PodEngine, image_name, pod_engines
from tests.support.kubernetes_api import container, dumped, pod
from tests.support.made_up_engines import ALPHA, BETA, MADE_UP

PROMETHEUS = {"prometheus.io/scrape": "true"}


def described(*containers: dict[str, Any], **facts: Any) -> list[PodEngine]:
    pods, _ = decode_page(dumped({"items": [pod("a", *containers, **facts)]}))
    return pod_engines(pods, MADE_UP)


def engine_of(*containers: dict[str, Any], **facts: Any) -> PodEngine:
    (found,) = [one for one in described(*containers, **facts) if one.engine is not None]
    return found


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("alpha", "alpha"),
        ("alpha:v1", "alpha"),
        ("team/alpha-openai@sha256:00", "team/alpha-openai"),
        ("docker.io/team/alpha:v1@sha256:00", "team/alpha"),
        ("localhost/alpha", "alpha"),
        ("registry:5000/a/b/alpha:v1", "a/b/alpha"),
        ("alphabet/nginx", "alphabet/nginx"),
    ],
)
def test_names_of_images(image: str, name: str) -> None:
    assert image_name(image) == name


def test_by_image_alone() -> None:
    found = engine_of(container(ports=[(8000, "")]))
    assert (found.engine, found.port, found.why, found.name) == (ALPHA, 8000, "", "serving/a")
    assert [one.engine for one in described(container(image="alphabet/nginx"))] == [None]
    assert engine_of(container(image="beta")).engine is BETA


def test_annotations_of_prometheus_are_believed_for_engines_alone() -> None:
    annotated = {**PROMETHEUS, "prometheus.io/port": "9999", "prometheus.io/path": "/prometheus/metrics"}
    assert described(container(image="nginx"), annotations=annotated)[0].engine is None
    found = engine_of(container(), annotations={**annotated, "prometheus.io/scheme": "https"})
    assert (found.port, found.path, found.scheme) == (9999, "/prometheus/metrics", "https")
    # A port that the container beside it declares is that one's.
    beside = container("proxy", "nginx", ports=[(9999, "")])
    found = engine_of(container(ports=[(8000, "")]), beside, annotations=annotated)
    assert (found.port, found.path, found.scheme) == (8000, "", "http")


@pytest.mark.parametrize("path", ["/terminate", "/v1/chat/completions", "/metrics/../terminate", "metrics", ""])
def test_no_path_is_believed_that_the_engine_file_does_not_know(path: str) -> None:
    assert engine_of(container(), annotations={**PROMETHEUS, "prometheus.io/path": path}).path == ""


def test_who_says_not_to_be_scraped_is_not_asked() -> None:
    refused = {"prometheus.io/scrape": "False"}
    assert "engineroom.io/engine" in engine_of(container(), annotations=refused).why
    assert engine_of(container(), annotations={**refused, "engineroom.io/engine": "alpha"}).why == ""


@pytest.mark.parametrize(
    ("parts", "annotations", "port"),
    [
        ({"args": ["--port", "8123"], "ports": [(8000, "")]}, {}, 8123),
        ({"args": ["--port", "8123"]}, {"engineroom.io/port": "8124"}, 8124),
        ({"ports": [(1, "grpc"), (8000, "x")]}, {}, 8000),
        ({"ports": [(1, "grpc"), (7000, "http")]}, {}, 7000),
        ({"ports": [(7000, "http")]}, {"prometheus.io/port": "7001"}, 7001),
        ({}, {}, 8000),
        ({"ports": [(7000, "grpc")]}, {}, None),
        ({}, {"engineroom.io/port": "99999"}, 8000),
        ({}, {"engineroom.io/port": "http"}, 8000),
    ],
)
def test_the_port_by_whoever_knows_best(parts: dict[str, Any], annotations: dict[str, str], port: int | None) -> None:
    found = engine_of(container(**parts), annotations=annotations)
    assert found.port == port
    assert ("engineroom.io/port" in found.why) == (port is None)


def test_an_undeclared_default_is_not_guessed_beside_other_containers() -> None:
    assert engine_of(container(), container("proxy", "nginx")).port is None


def test_a_page_at_a_port_of_its_own() -> None:
    beta = container(image="beta", ports=[(9000, ""), (9002, "metrics")])
    found = engine_of(beta, annotations={"prometheus.io/port": "9002"})
    assert (found.port, found.metrics_port) == (9000, None)  # the engine file knows it


def test_the_kind_that_a_pod_names() -> None:
    own = container(image="mine/llm")
    for labels, annotations in (
        ({"llm-d.ai/engine-type": "alpha"}, {}),
        ({"llm-d.ai/engine-type": "alpha-serve"}, {}),  # the gateway's names begin with the kind
        ({}, {"engineroom.io/engine": "alpha"}),
        ({"llm-d.ai/engine-type": "beta"}, {"engineroom.io/engine": "alpha"}),
    ):
        assert engine_of(own, labels=labels, annotations=annotations).engine is ALPHA
    assert described(own, labels={"llm-d.ai/engine-type": "gamma"})[0].engine is None
    assert described(own, labels={"llm-d.ai/engine-type": ""})[0].engine is None


def test_the_container_that_is_meant() -> None:
    said = {"engineroom.io/engine": "alpha"}
    first = container("one", "mine/one", ports=[(7000, "")])
    second = container("two", "mine/two", ports=[(7001, "")])
    assert [one.engine for one in described(first, second, annotations=said)] == [None, None]
    named = described(first, second, annotations={**said, "engineroom.io/container": "two"})
    assert [one.engine for one in named] == [None, ALPHA]
    by_port = described(first, second, annotations={**said, "engineroom.io/port": "7001"})
    assert [one.engine for one in by_port] == [None, ALPHA]
    by_image = described(first, container("two", "beta"), annotations=said)
    assert [one.engine for one in by_image] == [None, ALPHA]


def test_groups_of_leader_worker_sets() -> None:
    lws = "leaderworkerset.sigs.k8s.io/"
    labels = {f"{lws}name": "llm", f"{lws}group-index": "1", f"{lws}worker-index": "0"}
    leader = engine_of(container(ports=[(8000, "")]), labels=labels, annotations={f"{lws}size": "2"})
    assert (leader.part, leader.group, leader.nodes, leader.node_rank) == ("server", "llm-1.llm.serving", 2, 0)
    env = {"LWS_LEADER_ADDRESS": "llm-1.llm.serving", "LWS_GROUP_SIZE": "2"}
    worker = engine_of(container(env=env), labels={**labels, f"{lws}worker-index": "1"})
    assert (worker.part, worker.group, worker.nodes, worker.node_rank) == ("worker", "llm-1.llm.serving", 2, 1)


def test_a_set_of_one_pod_is_no_group() -> None:
    env = {"LWS_LEADER_ADDRESS": "llm-1.llm.serving", "LWS_GROUP_SIZE": "1", "LWS_WORKER_INDEX": "0"}
    assert engine_of(container(env=env)).group == ""


def test_roles_and_services() -> None:
    found = engine_of(container(), labels={"llm-d.ai/role": "prefill", "llm-d.ai/model": "qwen"})
    assert (found.role, found.service) == ("prefill", "serving/qwen")
    both = engine_of(container(), labels={"llm-d.ai/role": "prefill-decode", "llm-d.ai/model": "qwen"})
    assert (both.role, both.service) == (None, "")
    of_set = {"disaggregatedset.x-k8s.io/role": "decode", "disaggregatedset.x-k8s.io/name": "llm"}
    found = engine_of(container(), labels=of_set, annotations={"engineroom.io/service": "chat"})
    assert (found.role, found.service) == ("decode", "chat")
    assert engine_of(container(), labels=of_set).service == "serving/llm"


def test_a_pod_without_an_address_is_not_asked_yet() -> None:
    assert "no address" in engine_of(container(), address="").why


def test_on_the_hosts_network_nothing_is_guessed() -> None:
    assert engine_of(container(), host_network=True).port is None
    declared = container(ports=[(8000, "")])
    assert engine_of(declared, host_network=True).why == ""
    assert "does not run" in engine_of(declared, host_network=True, running=False).why
    assert engine_of(declared, running=False).why == ""


def test_a_worker_by_its_command() -> None:
    found = engine_of(container(image="alpha", args=["alpha-worker", "--group", "h:1", "--model", "m"]))
    assert (found.part, found.group, found.model) == ("worker", "h:1", "m")
