import pytest
from pydantic import ValidationError

from agent.collect.workloads.settings import WorkloadSettings


def test_defaults_are_what_kubernetes_has() -> None:
    settings = WorkloadSettings()
    assert str(settings.kubelet_sockets[0]) == "/var/lib/kubelet/pod-resources/kubelet.sock"
    assert any("microk8s" in str(path) for path in settings.kubelet_sockets)
    assert settings.resources == r"^nvidia\.com/"


def test_a_pattern_that_is_none_says_so() -> None:
    with pytest.raises(ValidationError, match="expected a regular expression"):
        WorkloadSettings(resources="nvidia(")
