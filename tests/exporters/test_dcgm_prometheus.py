"""What people ask of dcgm-exporter, asked of our port through a real Prometheus; and what promtool has to say."""

import re
import subprocess
from pathlib import Path

import pytest

from agent.clock import NS, unix_ns
from agent.core.workloads import Attribution, SlotUser
from exporters.dcgm import DcgmOptions, DcgmPage
from tests.support.components import need
from tests.support.dcgm import CHAT, EMBED, gpu, held, holding, in_mig_mode, mig, older_gpu, process, snapshot
from tests.support.dcgm_server import prometheus, served_dcgm

# Dashboard 12239 of Grafana's site: every panel, with its variables filled in.
DASHBOARD = {
    "temperature": 'DCGM_FI_DEV_GPU_TEMP{instance=~".+", gpu=~"0|1"}',
    "average temperature": 'avg(DCGM_FI_DEV_GPU_TEMP{instance=~".+", gpu=~"0|1"})',
    "power": 'DCGM_FI_DEV_POWER_USAGE{instance=~".+", gpu=~"0|1"}',
    "total power": 'sum(DCGM_FI_DEV_POWER_USAGE{instance=~".+", gpu=~"0|1"})',
    "SM clock": 'DCGM_FI_DEV_SM_CLOCK{instance=~".+", gpu=~"0|1"} * 1000000',
    "utilisation": 'DCGM_FI_DEV_GPU_UTIL{instance=~".+", gpu=~"0|1"}',
    "memory": 'DCGM_FI_DEV_FB_USED{instance=~".+", gpu=~"0|1"}',
    "tensor cores": 'DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{instance=~".+", gpu=~"0|1"}',
    "variable instance": "count by (instance) (DCGM_FI_DEV_GPU_TEMP)",
    "variable gpu": "count by (gpu) (DCGM_FI_DEV_GPU_TEMP)",
}
# NVIDIA's GPU operator records these on OpenShift, under one name for all makes of accelerators.
OPERATOR = {
    "accelerator_gpu_utilization": "DCGM_FI_DEV_GPU_UTIL",
    "accelerator_memory_used_bytes": "DCGM_FI_DEV_MEM_COPY_UTIL",
    "accelerator_memory_total_bytes": "DCGM_FI_DEV_FB_TOTAL",
    "accelerator_power_usage_watts": "DCGM_FI_DEV_POWER_USAGE",
    "accelerator_temperature_celsius": "DCGM_FI_DEV_GPU_TEMP",
    "accelerator_sm_clock_hertz": "DCGM_FI_DEV_SM_CLOCK * 1000000",
    "accelerator_memory_clock_hertz": "DCGM_FI_DEV_MEM_CLOCK * 1000000",
}
OPENCOST = 'avg(avg_over_time(DCGM_FI_PROF_GR_ENGINE_ACTIVE{container!=""}[1m])) by (container, pod, namespace)'
OTHERS = {
    "scale by load": 'avg(DCGM_FI_DEV_GPU_UTIL{namespace="inference", pod=~"chat-.*"})',
    "GPUs that nobody holds": 'count(DCGM_FI_DEV_GPU_TEMP{pod=""})',
    "energy": "sum(rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION[1m])) / 1000",
    "errors": "DCGM_FI_DEV_XID_ERRORS > 0",
    "errors lately": "sum by (gpu, xid) (DCGM_EXP_XID_ERRORS_COUNT) > 0",
    "throttled by power": "rate(DCGM_FI_DEV_POWER_VIOLATION[1m])",
    "PCIe": "DCGM_FI_PROF_PCIE_RX_BYTES + DCGM_FI_PROF_PCIE_TX_BYTES",
    "memory share": "DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE)",
}


class Node:
    """Four GPUs whose counters go on: held, free, in slices, shared. Read each time somebody asks."""

    def __init__(self) -> None:
        self.page = DcgmPage(DcgmOptions(node="node-1", utilization_as_engine_active=True))
        self.ticks = 0
        self.attribution: Attribution = held(
            holding("GPU-0", CHAT),
            holding("MIG-1-0", EMBED),
            holding("GPU-3", CHAT, "0"),
            holding("GPU-3", EMBED, "1"),
            users=(SlotUser(slot="GPU-3", pid=1, workload=EMBED),),
            replicas={"GPU-3": 2},
        )
        self.tick()

    def tick(self) -> None:
        self.ticks += 1
        now = {"read_at_ns": unix_ns(), "energy_joules": 1000.0 + 600 * self.ticks}
        pcie = type(gpu().pcie)(transmitted_bytes=10**6 * self.ticks, received_bytes=2 * 10**6 * self.ticks, replays=0)
        gpus = [
            gpu(0, **now, pcie=pcie, violation_ns={"power": 1000 * self.ticks}),
            gpu(1, **now, pcie=pcie),
            in_mig_mode(2, mig(1), mig(2)),
            older_gpu(3, **now, pcie=pcie, processes=(process(1, 100, 0.5),)),
        ]
        gpus[2] = type(gpus[2])(**{name: getattr(gpus[2], name) for name in gpus[2].__struct_fields__} | now)
        counts = {("GPU-0", 79): 1, ("GPU-1", 79): 0}
        self.page.observe(snapshot(*gpus, at_ns=unix_ns()), counts, {("GPU-0", 79): unix_ns() - NS}, xids_watched=True)

    def render(self) -> bytes:
        self.tick()
        return self.page.render(self.attribution, unix_ns())


@pytest.mark.component("prometheus")
async def test_what_people_ask_is_answered(tmp_path: Path) -> None:
    program = need("prometheus")
    async with served_dcgm(Node().render) as url:
        with prometheus(program, tmp_path, url.removeprefix("http://"), OPERATOR) as server:
            await server.until("count_over_time(DCGM_FI_DEV_GPU_TEMP[1m]) >= 3", lambda found: len(found) == 5)
            for what, promql in {**DASHBOARD, **OTHERS}.items():
                assert await server.vector(promql), what
            for name in OPERATOR:
                found = await server.until(name, lambda rows: len(rows) > 0)
                assert {labels["gpu"] for labels, _ in found} >= {"0", "1", "3"}, name
            # The slices' power is their GPU's: once for each GPU, as docs/dcgm.md tells people to write it.
            ((_, watts),) = await server.vector("sum(max by (Hostname, UUID) (DCGM_FI_DEV_POWER_USAGE))")
            assert watts == pytest.approx(4 * 612.345)
            ((_, free),) = await server.vector('count(DCGM_FI_DEV_GPU_TEMP{pod=""})')
            assert free == 3  # one GPU, one slice, and the shared GPU, which stands there without its pods
            ((_, up),) = await server.vector("up")
            assert up == 1
            ((_, scraped),) = await server.vector("scrape_samples_scraped")
            ((_, kept),) = await server.vector("scrape_samples_post_metric_relabeling")
            assert scraped == kept > 150
            used = {labels["pod"]: value for labels, value in await server.vector(OPENCOST)}
            # chat-0: 0.9 of a whole GPU, nothing of the shared one; embed-0: 0.25 of a slice, 0.87 of the shared one.
            assert used == pytest.approx({"chat-0": 0.45, "embed-0": 0.56})
        assert [line for line in server.complaints() if "Received SIGTERM" not in line] == []


@pytest.fixture
def lints() -> list[tuple[str, str]]:
    program = need("promtool")
    node = Node()
    page = node.render()
    done = subprocess.run([program, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60)
    found = [re.fullmatch(r"(\S+) (.*)", line) for line in done.stderr.decode().splitlines()]
    return [(one[1], one[2]) for one in found if one]


@pytest.mark.component("promtool")
def test_promtool_dislikes_only_what_is_in_dcgms_names(lints) -> None:
    """Counters without a small `_total`, one that says `counter`, capitals in labels, `NS`: no more."""
    of_names = (
        'counter metrics should have "_total" suffix',
        "metric name should not include type 'counter'",
        "label names should be written in 'snake_case'",
        "metric names should not contain abbreviated units",
    )
    assert [lint for lint in lints if not lint[1].startswith(of_names)] == []
    assert ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", of_names[0]) in lints
