"""Section `workloads` of the configuration file in, checked values out."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from agent.settings import ConfigPath, Section


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"expected a regular expression such as ^nvidia\\.com/, got {text!r}: {error}") from error
    return text


Pattern = Annotated[str, AfterValidator(_pattern)]


class WorkloadSettings(Section):
    """Who holds each GPU (asked of kubelet) and who uses it (seen in /proc): where to look and how often."""

    enabled: bool = Field(True, description="Find out which pods, containers and jobs hold and use the GPUs.")
    interval_seconds: float = Field(
        15.0,
        ge=1,
        le=600,
        description="Seconds between two looks; besides, it is looked at once when a process comes to a GPU or leaves "
        "it, and when GPUs or MIG devices change.",
    )
    timeout_seconds: float = Field(10.0, ge=0.1, le=60, description="Seconds that kubelet may take for an answer.")
    keep_seconds: float = Field(
        120.0,
        ge=0,
        le=3600,
        description="Seconds for which kubelet's last answer holds while it gives no new one. After that its "
        "checkpoint file is used, if that can be read, else holders are unknown.",
    )
    kubelet_sockets: tuple[ConfigPath, ...] = Field(
        (
            Path("/var/lib/kubelet/pod-resources/kubelet.sock"),
            Path("/var/snap/microk8s/common/var/lib/kubelet/pod-resources/kubelet.sock"),
            Path("/var/lib/k0s/kubelet/pod-resources/kubelet.sock"),
        ),
        description="Where kubelet's pod-resources socket may be; the first that exists is asked.",
    )
    checkpoints: tuple[ConfigPath, ...] = Field(
        (
            Path("/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"),
            Path("/var/snap/microk8s/common/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"),
            Path("/var/lib/k0s/kubelet/device-plugins/kubelet_internal_checkpoint"),
        ),
        description="Where kubelet's record of devices may be, the cross-check and fallback; the first that exists is "
        "read.",
    )
    pod_logs: ConfigPath = Field(
        Path("/var/log/pods"), description="Folder whose names tell which pod has which uid. Nothing in it is read."
    )
    container_logs: ConfigPath = Field(
        Path("/var/log/containers"),
        description="Folder whose links tell which container has which id. Nothing in it is read.",
    )
    proc: ConfigPath = Field(
        Path("/proc"), description="The host's /proc, where it is mounted elsewhere than hostPID: true would show it."
    )
    resources: Pattern = Field(
        r"^nvidia\.com/", description="Regular expression for names of resources whose devices are GPUs."
    )
    dra_drivers: Pattern = Field(
        r"^gpu\.nvidia\.com$", description="Regular expression for DRA drivers whose devices are GPUs."
    )
