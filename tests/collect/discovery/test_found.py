"""Names, addresses and the join of processes and pods into targets."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collect.discovery.found import same_engine, targets_of
from agent.collect.discovery.kubernetes.objects import decode_page
from agent.collect.discovery.kubernetes.pods import PodEngine, pod_engines
from agent.collect.discovery.processes.engines import FoundEngine
from agent.collect.engines.targets import EngineTarget
from agent.core.workloads import Workload
from agent.engines.contract import Recognised
from tests.support.kubernetes_api import container, dumped, pod
from tests.support.made_up_engines import ALPHA, BETA, MADE_UP

ID = "a" * 64


def found(pid: int = 10, **facts: Any) -> FoundEngine:
    said = facts.pop("said", Recognised())
    usual = {
        "engine": ALPHA,
        "pids": (pid,),
        "host": "127.0.0.1",
        "port": 8000,
        "shown": facts.get("host", "127.0.0.1"),
    }
    return FoundEngine(recognised=said, **{**usual, **facts})


def in_container(container_id: str = ID) -> Workload:
    return Workload(container_id=container_id, pod_uid="uid-of-a")


def pods(*shown: dict[str, Any]) -> list[PodEngine]:
    return pod_engines(decode_page(dumped({"items": list(shown)}))[0], MADE_UP)


def names(*engines: FoundEngine) -> list[str]:
    return [target.engine for target in targets_of(engines, ())]


def test_a_server_of_this_machine() -> None:
    said = Recognised(group="h:1", nodes=2, node_rank=0, role="decode", model="m", metrics_port=9002)
    (target,) = targets_of([found(said=said, pids=(10, 11), started_at_ns=5)], ())
    assert target == EngineTarget(
        name="127.0.0.1:8000",
        url="http://127.0.0.1:8000",
        metrics_url="http://127.0.0.1:9002/metrics",
        kind="alpha",
        found_by="process",
        pids=(10, 11),
        started_at_ns=5,
        group="h:1",
        nodes=2,
        node_rank=0,
        role="decode",
        model="m",
    )


def test_a_server_with_a_certificate_and_one_that_does_not_listen_yet() -> None:
    (target,) = targets_of([found(said=Recognised(tls=True, metrics_port=9002))], ())
    assert (target.url, target.metrics_url) == ("https://127.0.0.1:8000", "https://127.0.0.1:9002/metrics")
    (target,) = targets_of([found(host="", why="it does not listen yet", shown="127.0.0.1", listens=False)], ())
    assert (target.url, target.listens, target.unreachable) == ("", False, "it does not listen yet")


def test_a_server_and_its_pod_are_one() -> None:
    shown = pod(
        "a", container(container_id=ID), labels={"llm-d.ai/role": "prefill"}, annotations={"engineroom.io/service": "s"}
    )
    one = found(host="10.244.0.5", workload=in_container())
    (target,) = targets_of([one], pods(shown))
    assert (target.engine, target.url, target.found_by) == ("serving/a", "http://10.244.0.5:8000", "process")
    assert (target.role, target.service, target.pids) == ("prefill", "s", (10,))
    assert target.workload == Workload(
        namespace="serving", pod="a", container="engine", pod_uid="uid-of-a", container_id=ID
    )


def test_the_process_knows_its_image_better_and_the_pod_its_page() -> None:
    shown = pod(
        "a",
        container(image="mine/llm", container_id=ID),
        annotations={"prometheus.io/path": "/prometheus/metrics", "prometheus.io/scheme": "https"},
    )
    one = found(host="10.244.0.5", port=8001, workload=in_container())
    (target,) = targets_of([one], pods(shown))
    assert target.url == "https://10.244.0.5:8001"
    assert target.metrics_url == "https://10.244.0.5:8001/prometheus/metrics"


def test_a_restarted_container_is_known_by_its_pod_until_the_list_has_it() -> None:
    shown = pods(pod("a", container(container_id=ID), container("proxy", "nginx", container_id="c" * 64)))
    restarted = found(host="10.244.0.5", workload=in_container("d" * 64))
    (target,) = targets_of([restarted], shown)
    assert target.engine == "serving/a"
    assert target.workload is not None
    assert (target.workload.container, target.workload.container_id) == ("engine", "d" * 64)
    strange = found(host="10.244.0.9", workload=Workload(container_id="d" * 64, pod_uid="uid-of-another"))
    assert [one.engine for one in targets_of([strange], shown)] == ["10.244.0.9:8000", "serving/a"]


def test_a_pod_that_is_not_to_be_asked_still_has_its_processes() -> None:
    shown = pod("a", container(container_id=ID), annotations={"prometheus.io/scrape": "false"})
    (target,) = targets_of([found(host="10.244.0.5", workload=in_container())], pods(shown))
    assert (target.url, target.pids) == ("", (10,))
    assert "prometheus.io/scrape: false" in target.unreachable


def test_what_listens_on_loopback_is_not_asked_at_the_pods_address() -> None:
    shown = pod("a", container(container_id=ID))
    (target,) = targets_of([found(host="", why="on loopback", workload=in_container())], pods(shown))
    assert (target.url, target.unreachable) == ("", "on loopback")


def test_a_pod_without_processes() -> None:
    (target,) = targets_of([], pods(pod("a", container(), address="fd00::5")))
    assert (target.url, target.found_by, target.pids) == ("http://[fd00::5]:8000", "kubernetes", ())
    (target,) = targets_of([], pods(pod("a", container(ports=[(1, "x")]))))
    assert (target.url, bool(target.unreachable)) == ("", True)


def test_a_pod_whose_page_is_at_another_port() -> None:
    shown = pod("a", container(ports=[(8000, ""), (7777, "")]), annotations={"prometheus.io/port": "7777"})
    shown["spec"]["containers"][0]["args"] = ["--port", "8000"]
    (target,) = targets_of([], pods(shown))
    assert (target.url, target.metrics_url) == ("http://10.244.0.5:8000", "http://10.244.0.5:7777/metrics")


def test_two_engines_in_one_pod_have_their_ports() -> None:
    other = "b" * 64
    shown = pod("a", container("one", container_id=ID), container("two", container_id=other))
    engines = [
        found(host="10.244.0.5", workload=in_container()),
        found(11, host="10.244.0.5", port=8001, workload=in_container(other)),
    ]
    assert [one.engine for one in targets_of(engines, pods(shown))] == ["serving/a:8000", "serving/a:8001"]
    alone = [one.engine for one in targets_of([], pods(shown))]
    assert len(set(alone)) == 2


def test_workers_are_named_by_group_then_place_then_process() -> None:
    worker = {"host": "", "port": None, "shown": ""}
    assert names(found(said=Recognised(part="worker", group="h:1"), **worker)) == ["alpha h:1"]
    placed = found(said=Recognised(part="worker"), workload=in_container(), **worker)
    assert names(placed) == ["alpha " + ID[:12]]
    assert names(found(said=Recognised(part="worker"), **worker)) == ["alpha pid 10"]
    (target,) = targets_of([placed], pods(pod("a", container(container_id=ID))))
    assert (target.engine, target.url, target.unreachable, target.part) == ("alpha serving/a", "", "", "worker")
    lws = {"leaderworkerset.sigs.k8s.io/name": "l", "leaderworkerset.sigs.k8s.io/group-index": "0"}
    (target,) = targets_of([placed], pods(pod("a", container(container_id=ID), labels=lws)))
    assert (target.engine, target.group) == ("alpha l-0.l.serving", "l-0.l.serving")


def test_a_server_inside_another_is_named_after_it() -> None:
    inner = found(11, engine=BETA, pids=(), inside=10, host="", why="loopback", port=40001)
    outer = found(host="10.244.0.5", workload=in_container())
    assert names(outer, inner) == ["10.244.0.5:8000", "10.244.0.5:8000 beta"]
    assert names(outer, inner, inner) == ["10.244.0.5:8000", "10.244.0.5:8000 beta", "10.244.0.5:8000 beta:40001"]
    targets = targets_of([outer, inner], pods(pod("a", container(container_id=ID))))
    assert [one.engine for one in targets] == ["serving/a", "serving/a beta"]


def test_servers_without_an_address_have_a_name() -> None:
    assert names(found(host="", shown="", workload=in_container())) == [f"{ID[:12]}:8000"]
    assert names(found(host="", shown="", port=None)) == ["alpha pid 10"]


@given(
    st.lists(
        st.builds(
            found,
            st.integers(2, 5),
            host=st.sampled_from(["", "127.0.0.1"]),
            port=st.sampled_from([8000, 8001]),
            workload=st.sampled_from([None, in_container(), in_container("b" * 64)]),
            said=st.sampled_from([Recognised(), Recognised(part="worker"), Recognised(part="worker", group="g")]),
        ),
        max_size=8,
    )
)
def test_no_two_names_are_the_same(engines: list[FoundEngine]) -> None:
    shown = pods(pod("a", container(container_id=ID)), pod("b", container(container_id="c" * 64)))
    given_names = [one.engine for one in targets_of(engines, shown)]
    assert len(given_names) == len(set(given_names))


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({"pids": (1, 2)}, {"pids": (1, 3)}, True),
        ({"pids": (1, 2)}, {"pids": (2, 3)}, False),
        ({"url": "http://h:1"}, {"url": "http://h:1"}, True),
        ({"url": ""}, {"url": ""}, False),
        (
            {"found_by": "kubernetes", "workload": in_container()},
            {"found_by": "process", "workload": in_container()},
            True,
        ),
    ],
)
def test_an_engine_under_another_name(old: dict[str, Any], new: dict[str, Any], same: bool) -> None:
    assert same_engine(EngineTarget(name="old", **old), [EngineTarget(name="new", **new)]) is same
