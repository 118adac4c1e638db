import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.podlogs import docker_id, parse_folder, parse_link, pod_names
from agent.core.workloads import Workload

UID = "0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"
STATIC = "9f1c3e5a7b9d1f3e5a7b9d1f3e5a7b9d"
ID = "1" * 64


@pytest.mark.parametrize(
    ("name", "pod"),
    [
        (f"ml_llama-0_{UID}", Workload(namespace="ml", pod="llama-0", pod_uid=UID)),
        (
            f"kube-system_kube-proxy-node_{STATIC}",
            Workload(namespace="kube-system", pod="kube-proxy-node", pod_uid=STATIC),
        ),
        (f"ml_web.v1.example_{UID}", Workload(namespace="ml", pod="web.v1.example", pod_uid=UID)),
        ("ml_llama-0", None),
        (f"ml_llama_0_{UID}", None),
        (f"_llama-0_{UID}", None),
        (f"ml_llama-0_{UID}.old", None),
        ("lost+found", None),
        ("", None),
    ],
)
def test_folders_of_pods(name: str, pod: Workload | None) -> None:
    assert parse_folder(name) == pod


def test_links_of_containers() -> None:
    found = parse_link(f"llama-0_ml_server-{ID}.log")
    assert found == Workload(namespace="ml", pod="llama-0", container="server", container_id=ID)
    assert parse_link(f"llama-0_ml_my-side-car-{ID}.log") is not None
    for other in (f"llama-0_ml_server-{ID}.log.gz", f"llama-0_ml-{ID}.log", "llama-0_ml_server-12.log", "x", ""):
        assert parse_link(other) is None


def test_a_link_that_kubelet_cut_is_not_believed() -> None:
    long = f"{'p' * 170}_ml_cont-{ID}.log"
    assert parse_link(long) is not None
    cut = "p" * (255 - len(f"_ml_c-{ID}.log")) + f"_ml_c-{ID}.log"
    assert len(cut) == 255
    assert parse_link(cut) is None


def test_dockers_logs_name_the_container() -> None:
    assert docker_id(f"/var/lib/docker/containers/{ID}/{ID}-json.log") == ID
    assert docker_id("/var/log/other.log") == ""


def test_what_folders_and_links_say_together() -> None:
    folder = f"ml_llama-0_{UID}"
    names = pod_names(
        {folder: {"server": [f"/var/lib/docker/containers/{ID}/{ID}-json.log"], "init": []}, "junk": {"x": []}},
        [f"other-0_ml_main-{'2' * 64}.log", "junk"],
    )
    assert names.by_uid == {UID: Workload(namespace="ml", pod="llama-0", pod_uid=UID)}
    assert names.containers == {UID: ("init", "server")}
    assert names.by_container_id[ID].container == "server"
    assert names.by_container_id["2" * 64].pod == "other-0"
    assert names.has_pod("ml", "llama-0")
    assert not names.has_pod("ml", "gone-0")
    assert names.uids("ml", "llama-0") == [UID]


@given(st.text())
def test_no_name_makes_it_fail(text: str) -> None:
    parse_folder(text)
    parse_link(text)
    docker_id(text)
