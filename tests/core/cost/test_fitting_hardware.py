"""Cheaper GPUs that an engine would run on, and every case in which none may be proposed."""

import csv
import itertools
from pathlib import Path
from typing import Any

import pytest

from agent.core.cost.engine_days import Observed
from agent.core.cost.fitting_hardware import LEAST_SEEN_NS, MEMORY_MIB
from agent.core.cost.shapes import ModelShape, power_of
from tests.support.savings import H100, facts, figure, found, hour, place, priced

GIB = 1 << 30
CAPTURES = Path(__file__).parents[3].parent / "shared" / "captures" / "gpu" / "utkuozdemir-nvidia_gpu_exporter"
BOOK = priced(H100=10.0, L40S=3.0, L4=1.0, A10=1.2)


def given(*, busy: float = 0.1, memory: int | None = 18 * GIB, **changes: Any) -> dict[str, Any]:
    """An engine on an H100 that has 18 GiB of it, and is at work for a tenth of its busiest hour."""
    seen = Observed(seen_ns=LEAST_SEEN_NS, gpu_memory_bytes=memory, gpus=1, kv_cache_usage_ratio=0.1)
    hours = [hour(0, "request", busy / 2), hour(0, "loaded_idle", 1 - busy / 2), hour(1, "request", busy)]
    hours.append(hour(1, "loaded_idle", 1 - busy))
    return {"observed": {"chat": seen}, "hours": hours, "price_of": BOOK, **changes}


BUSY = [place("request", 700, requests=5), place("loaded_idle", 20)]


def test_a_small_model_on_a_large_gpu() -> None:
    finding = found(facts(BUSY, **given()))["smaller_hardware"]
    assert finding.where == {"engine": "chat", "model": "qwen", "gpu_model": H100}
    assert figure(finding, "memory_needed") == round(1.1 * 18 * GIB)
    assert figure(finding, "price_smaller") == 3_000_000_000  # an L4 is cheaper, and eleven times as slow
    assert figure(finding, "busiest_hour") == pytest.approx(0.1)
    assert finding.cost_nano == 7_200_000_000_000 * 7 // 10
    assert finding.per_month_nano == 7_300_000_000_000 * 7 // 10
    assert "NVIDIA L40S (45 GiB) would do in place of" in finding.summary
    assert "of which a part may be spare" in finding.limits
    assert not finding.is_part


def test_the_cheapest_that_is_fast_enough() -> None:
    """Hardly anything has to be done here; still nobody wants answers that take eleven times as long."""
    assert "NVIDIA L40S " in found(facts(BUSY, **given(busy=0.01)))["smaller_hardware"].summary
    places = [place("request", 720, gpu_model="NVIDIA L40S")]
    assert "NVIDIA L4 " in found(facts(places, **given(busy=0.2)))["smaller_hardware"].summary
    assert found(facts(places, **given(busy=0.3))) == {}


def test_of_an_engine_that_takes_all_memory_only_what_it_uses_is_needed() -> None:
    """vLLM fills its GPU with cache; the model's shape says how much of it are weights."""
    shape = ModelShape(active_parameters=7e9, total_parameters=8e9, bytes_per_parameter=2, source="config")
    of = given(memory=72 * GIB, shape_of=lambda _engine, _model: shape)
    finding = found(facts(BUSY, **of))["smaller_hardware"]
    weights = 16e9
    assert figure(finding, "memory_needed") == round(1.1 * (weights + 0.125 * (72 * GIB - weights) + 2 * GIB))
    assert "weights by the model's shape" in finding.limits
    assert found(facts(BUSY, **given(memory=72 * GIB))) == {}  # without the shape it may need all that it has


def seen(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"seen_ns": LEAST_SEEN_NS, "gpu_memory_bytes": 18 * GIB, "gpus": 1, **changes}
    return {"observed": {"chat": Observed(**values)}}


@pytest.mark.parametrize(
    "changes",
    [
        {"observed": {}},
        seen(gpu_memory_bytes=None),
        seen(seen_ns=LEAST_SEEN_NS - 1),
        seen(gpus=2),  # of which one has hardly any of its time
        {"hours": []},
        {"hours": [place("request", 700)]},  # not cut at hours
        {"price_of": priced(H100=10.0)},
        {"price_of": priced(L40S=3.0)},
        {"price_of": priced(H100=10.0, L40S=10.0, L4=12.0)},
        {"price_of": priced(H100=10.0, L40S=0.0)},
    ],
)
def test_what_is_not_known_is_not_proposed(changes: dict[str, Any]) -> None:
    assert found(facts(BUSY, **{**given(), **changes})) == {}


def test_a_busy_engine_stays_where_it_is() -> None:
    assert found(facts(BUSY, **given(busy=0.7))) == {}


def test_mig_devices_and_unknown_gpus_are_left_alone() -> None:
    assert found(facts([place("request", 720, slot="MIG-1")], **given())) == {}
    unknown = [place("request", 720, gpu_model="NVIDIA Q1")]
    assert found(facts(unknown, **given(price_of=priced(Q1=9.0, L4=1.0)))) == {}


def test_two_gpus_need_two_of_the_smaller() -> None:
    places = [place("request", 720, gpu=f"GPU-{n}") for n in (0, 1)]
    both = Observed(seen_ns=LEAST_SEEN_NS, gpu_memory_bytes=30 * GIB, gpus=2)
    finding = found(facts(places, **given(observed={"chat": both})))["smaller_hardware"]
    assert figure(finding, "gpus") == 2
    assert "30 GiB" not in finding.summary
    assert "33 GiB on each of 2 GPUs" in finding.summary


def test_every_gpu_of_the_table_has_known_peaks() -> None:
    assert [name for name in MEMORY_MIB if power_of(name) is None] == []


def test_memory_is_what_recorded_gpus_have() -> None:
    if not CAPTURES.is_dir():
        pytest.skip("needs the recordings of GPUs beside this repository (../shared/captures)")
    known = {}
    for file in CAPTURES.glob("*.txt"):
        lines = [next(csv.reader([line], skipinitialspace=True), []) for line in file.read_text().splitlines()]
        for head, values in itertools.pairwise(lines):
            if "memory.total [MiB]" in head and "name" in head and len(values) == len(head):
                line = dict(zip(head, values, strict=True))
                known[line["name"]] = int(line["memory.total [MiB]"].removesuffix(" MiB"))
    both = known.keys() & MEMORY_MIB.keys()
    assert len(both) >= 3
    assert {name: MEMORY_MIB[name] for name in both} == {name: known[name] for name in both}
