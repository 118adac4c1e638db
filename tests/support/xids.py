"""GPUs, workloads and errors for the tests of everything about Xids."""

from agent.core.gpu_readings import GpuReading, GpuSnapshot, MigReading, XidEvent
from agent.core.workloads import Attribution, Holding, SlotUser, Workload

S = 1_000_000_000


def gpu(index=0, mig=None):
    return GpuReading(
        uuid=f"GPU-{index}",
        index=index,
        model="H100",
        read_at_ns=0,
        state="ok",
        pci_bus_id=f"00000000:{0x1B + index:02X}:00.0",
        mig=mig,
    )


def mig(number, instance, compute=0):
    return MigReading(
        uuid=f"MIG-{number}", index=number, gpu_instance=instance, compute_instance=compute, profile="1g.10gb"
    )


def snapshot(*gpus, xids=(), driver="ok", **more):
    return GpuSnapshot(read_at_ns=0, driver=driver, gpus=gpus, xids=tuple(xids), **more)


def nvml(xid, at_s, uuid="GPU-0", count=1, **more):
    return XidEvent(at_ns=int(at_s * S), uuid=uuid, xid=xid, source="nvml", count=count, **more)


def kernel(xid, at_s, pci="0000:1b:00", **more):
    return XidEvent(at_ns=int(at_s * S), uuid="", xid=xid, source="kernel", pci_bus_id=pci, **more)


def pod(name, container="main"):
    return Workload(namespace="ml", pod=name, container=container)


def held(slot, workload):
    return Holding(slot=slot, workload=workload, resource="nvidia.com/gpu", source="pod_resources")


def used(slot, pid, workload=None):
    return SlotUser(slot=slot, pid=pid, workload=workload)


def seen(holdings=(), users=()):
    return Attribution(read_at_ns=0, holdings=tuple(holdings), users=tuple(users), holders_known=True, users_known=True)
