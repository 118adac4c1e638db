from typing import Any

import pytest

from agent.collect.workloads.features import Access, features


def access(**more: Any) -> Access:
    fields: dict[str, Any] = {
        "kubelet": "",
        "checkpoint": "",
        "pod_logs": "",
        "container_logs": "",
        "host_pids": True,
        "process_files": True,
        "holders_from": "pod_resources",
    }
    return Access(**(fields | more))


def off(**more: Any) -> dict[str, str]:
    return {feature.name: feature.reason for feature in features(access(**more)) if not feature.enabled}


def test_all_is_there() -> None:
    found = features(access())
    assert [one.name for one in found] == [
        *("pod_resources", "checkpoint", "pod_logs", "container_logs", "host_pid", "process_files")
    ]
    assert all(one.enabled and not one.reason for one in found)


@pytest.mark.parametrize(
    ("change", "name", "remedy"),
    [
        ({"kubelet": "it refuses us", "holders_from": "kept"}, "pod_resources", "last answer"),
        ({"kubelet": "it refuses us", "holders_from": "checkpoint"}, "pod_resources", "checkpoint file"),
        ({"kubelet": "it refuses us", "holders_from": ""}, "pod_resources", "not known"),
        ({"checkpoint": "may not be read: run as root"}, "checkpoint", "run as root"),
        ({"pod_logs": "is not there: mount it, read-only"}, "pod_logs", "/var/log/pods is not there: mount it"),
        ({"container_logs": "is not there: mount it, read-only"}, "container_logs", "/var/log/containers"),
        ({"host_pids": False}, "host_pid", "hostPID: true"),
        ({"pids_seen": False}, "host_pid", "hidepid"),
        ({"process_files": False}, "process_files", "SYS_PTRACE"),
        ({"slurm_without_job": True}, "slurm_jobs", "ProctrackType"),
    ],
)
def test_each_right_says_what_opens_it(change: dict[str, Any], name: str, remedy: str) -> None:
    found = off(**change)
    assert set(found) == {name}
    assert remedy in found[name]


def test_a_machine_without_kubernetes_is_told_once() -> None:
    found = off(kubelet="there is no socket of it", checkpoint="x", pod_logs="x", container_logs="x", holders_from="")
    assert set(found) == {"pod_resources"}
    assert "Outside of Kubernetes" in found["pod_resources"]


def test_what_cannot_be_tried_is_left_out() -> None:
    assert "process_files" not in {one.name for one in features(access(process_files=None))}
