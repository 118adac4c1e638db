"""Labels of DCGM's lines: who a GPU or MIG slice is and who holds it in, label text in dcgm-exporter's order out.

Order: the fixed labels, the node's name, then two groups each sorted by name: those that come from the configuration
(the driver's version) and those that were added (container, namespace, pod, ...).
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from agent.core.attribution.shares import Who, who
from agent.core.workloads import Attribution, Holding
from exporters.dcgm_entity import Entity

Profile = Literal["classic", "4.6", "both"]
HostnameLabel = Literal["Hostname", "hostname", "both"]

_MUST_BE_ESCAPED = re.compile(r'[\\"\n]')
_ESCAPED = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
_HOSTNAMES: dict[HostnameLabel, tuple[str, ...]] = {
    "Hostname": ("Hostname",),
    "hostname": ("hostname",),
    "both": ("Hostname", "hostname"),
}
_DRIVER_VERSIONS: dict[Profile, tuple[str, ...]] = {
    "classic": ("DCGM_FI_DRIVER_VERSION",),
    "4.6": ("DCGM_FI_SYSTEM_DRIVER_VERSION",),
    "both": ("DCGM_FI_DRIVER_VERSION", "DCGM_FI_SYSTEM_DRIVER_VERSION"),  # on every line, so that lines still match
}


def pairs(labels: Mapping[str, str]) -> str:
    """``,name="value"`` for each label that has a value."""
    return "".join(f',{name}="{_escaped(value)}"' for name, value in labels.items() if value)


def _escaped(value: str) -> str:
    return _MUST_BE_ESCAPED.sub(lambda found: _ESCAPED[found[0]], value) if _MUST_BE_ESCAPED.search(value) else value


def identity(entity: Entity, node: str, hostname_label: HostnameLabel) -> str:
    """The fixed labels and the node's name, without braces."""
    gpu, instance = entity.gpu, entity.instance
    labels = {
        "UUID": gpu.uuid,
        "pci_bus_id": gpu.pci_bus_id or "",
        "device": f"nvidia{gpu.index}",  # DCGM's number of the GPU, not the minor number
        "modelName": gpu.model,
    }
    if instance is not None:
        labels |= {"GPU_I_PROFILE": gpu_instance_profile(instance.profile), "GPU_I_ID": str(instance.gpu_instance)}
    labels |= dict.fromkeys(_HOSTNAMES[hostname_label], node)
    return f'gpu="{gpu.index}"{pairs(labels)}'


def gpu_instance_profile(profile: str) -> str:
    """The GPU instance's part of a MIG device's profile: 3g.40gb of 1c.3g.40gb."""
    return re.sub(r"^\d+c\.", "", profile)


def configured(entity: Entity, profile: Profile, more: Mapping[str, str] | None = None) -> str:
    """The labels that dcgm-exporter's configuration adds to every line."""
    labels = dict.fromkeys(_DRIVER_VERSIONS[profile], entity.gpu.driver_version or "")
    return pairs(dict(sorted({**labels, **(more or {})}.items())))


class Holder(NamedTuple):
    """Somebody who was given the entity, or a job that runs on it: its labels, sorted by name."""

    who: Who
    labels: Mapping[str, str]

    def text(self, more: Mapping[str, str] | None = None) -> str:
        """Its labels and `more`, in order."""
        return pairs(dict(sorted({**self.labels, **more}.items())) if more else self.labels)


NO_HOLDER = Holder(Who(), {})


class Holders(NamedTuple):
    """Who has an entity. `alone`: one has all of it, and every value is theirs."""

    all: tuple[Holder, ...]
    alone: bool


class HolderIndex:
    """Attribution, arranged by slot."""

    def __init__(self, attribution: Attribution | None) -> None:
        self._held: dict[str, list[Holding]] = {}
        self._jobs: dict[str, set[str]] = {}
        self._shared = frozenset(attribution.replicas) if attribution else frozenset()
        if attribution is None:
            return
        for holding in attribution.holdings:
            self._held.setdefault(holding.slot, []).append(holding)
        for user in attribution.users:
            if user.workload is not None and user.workload.job and not user.workload.pod_uid:
                self._jobs.setdefault(user.slot, set()).add(user.workload.job)

    def of(self, entity: Entity) -> Holders:
        """Holders of a GPU, or of any MIG device of a GPU instance; where there are none, the jobs on it.

        A slot that is divided into replicas is shared even while one holder alone has some of them: else its series
        would change their labels whenever a second one comes or goes.
        """
        found: dict[Who, Holder] = {}
        for slot in entity.slots:
            for holding in self._held.get(slot, ()):
                holder = _holder(holding, entity)
                # Several replicas in one hand have no number to tell.
                known = found.get(holder.who)
                labels = holder.labels if known is None else {k: v for k, v in known.labels.items() if k != "vgpu"}
                found[holder.who] = Holder(holder.who, labels)
        if found:
            divided = any(slot in self._shared for slot in entity.slots) or any(
                "vgpu" in h.labels for h in found.values()
            )
            return Holders(tuple(found[key] for key in sorted(found)), alone=len(found) == 1 and not divided)
        jobs = sorted({job for slot in entity.slots for job in self._jobs.get(slot, ())})
        return Holders(tuple(Holder(Who(job=job), {"hpc_job": job}) for job in jobs), alone=len(jobs) == 1)


def _holder(holding: Holding, entity: Entity) -> Holder:
    names, claim = who(holding.workload), holding.claim
    labels = {
        "container": names.container,
        "namespace": names.namespace,
        "pod": names.pod,
        "pod_uid": holding.workload.pod_uid,
        "vgpu": holding.replica or "",
    }
    if claim is not None:
        labels |= {
            "dra_claim_name": claim.name,
            "dra_claim_namespace": claim.namespace,
            "dra_device_name": claim.device,
            "dra_driver_name": claim.driver,
            "dra_pool_name": claim.pool,
        }
        if entity.instance is not None:
            labels |= {"dra_mig_device_uuid": holding.slot, "dra_mig_profile": entity.instance.profile}
    return Holder(names, {name: value for name, value in sorted(labels.items()) if value})


def of_pod(holder: Who, others: Iterable[Who]) -> bool:
    """Whether the pod of `holder` is named once among all holders, so that its pod's name is enough to find it."""
    return sum(other[:2] == holder[:2] for other in others) == 1
