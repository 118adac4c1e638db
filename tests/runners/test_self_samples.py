from types import SimpleNamespace
from typing import Any

from agent.core.alerts.alert import AlertState
from agent.core.board import Board
from agent.core.cost.present import PresentSlot
from agent.core.cost.reports import GpuPrice
from agent.core.gpu_readings import GpuReading, GpuSnapshot
from agent.delivery.latest import DeliveryCounts
from agent.runners.self_samples import delivery_samples, money_samples, rule_samples, slot_samples
from exporters.prometheus import render


def page(samples: Any) -> str:
    return render(samples).decode()


def test_money_leaves_its_integers_only_here() -> None:
    settlement: Any = SimpleNamespace(
        cost_total_nano={("request", "team", "m", "CNY"): 1_500_000_000, ("unallocated", "", "", "CNY"): 1},
        slot_total_ns={("GPU-1", "request"): 2_500_000_000},
        senders=SimpleNamespace(
            accepted={"start": 1, "progress": 0, "end": 1},
            repeated=4,
            refused={"unreadable": 0, "value": 2},
            missing=5,
        ),
        prices_in_force=lambda: (
            GpuPrice(gpu_model="m", currency="CNY", nano_per_hour=6_610_000_000, effective_from="always"),
        ),
    )
    gpu = GpuReading(uuid="GPU-1", index=0, model="m", read_at_ns=1, state="ok")
    board = Board(node="n", gpus=GpuSnapshot(read_at_ns=1, driver="ok", gpus=(gpu,)))
    text = page(money_samples("n", settlement, board))
    assert 'engineroom_cost_total{currency="CNY",model="m",node="n",state="request",tenant="team"} 1.5' in text
    assert 'engineroom_cost_total{currency="CNY",node="n",state="unallocated"} 1e-09' in text
    assert 'engineroom_gpu_slot_seconds_total{node="n",state="request",uuid="GPU-1"} 2.5' in text
    assert 'engineroom_records_accepted_total{kind="end",node="n"} 1.0' in text
    assert 'engineroom_records_repeated_total{node="n"} 4.0' in text
    assert 'engineroom_records_refused_total{node="n",reason="value"} 2.0' in text
    assert 'engineroom_records_refused_total{node="n",reason="unreadable"} 0.0' in text
    assert 'engineroom_records_missing{node="n"} 5.0' in text
    assert 'engineroom_cost_gpu_hour{currency="CNY",gpu="0",gpu_model="m",node="n",uuid="GPU-1"} 6.61' in text


def test_alerts_are_counted_by_state_zero_included() -> None:
    rules: Any = SimpleNamespace(
        alerts=lambda: [SimpleNamespace(state=AlertState.FIRING), SimpleNamespace(state=AlertState.RESOLVED)],
        statuses=lambda: [SimpleNamespace(duration_seconds=0.25, health="err")],
    )
    text = page(rule_samples("n", rules))
    assert 'engineroom_alerts{node="n",state="firing"} 1.0' in text
    assert 'engineroom_alerts{node="n",state="pending"} 0.0' in text
    assert 'engineroom_rule_failures{node="n"} 1.0' in text


def test_every_destination_has_its_own_counts() -> None:
    text = page(delivery_samples("n", {"a": DeliveryCounts(delivered=2, rejected=1)}, {"a": 3}))
    assert 'engineroom_alerts_delivered_total{destination="a",node="n"} 2.0' in text
    assert 'engineroom_alerts_pending{destination="a",node="n"} 3.0' in text


def test_each_slot_has_one_state_a_share_and_what_is_stranded_on_it() -> None:
    common: dict[str, Any] = {"gpu": "GPU-1", "index": 0, "profile": "", "weights": 7}
    slots = [
        PresentSlot(
            slot="MIG-a", kind="mig", weight=3, state="allocated_idle", reason="held_no_process",
            stranded_bytes=5, stranded_cause="held_free", **common,
        ),
        PresentSlot(slot="GPU-1", kind="rest", weight=0, state="unallocated", reason="mig_unpartitioned", **common),
    ]  # fmt: skip
    found = {(sample.key.name, sample.key.get("slot")): sample for sample in slot_samples("n", slots)}
    state = found["engineroom_gpu_slot_state", "MIG-a"]
    assert dict(state.key.labels) == {
        "node": "n", "uuid": "GPU-1", "slot": "MIG-a", "state": "allocated_idle", "reason": "held_no_process",
    }  # fmt: skip
    assert {sample.value for (name, _), sample in found.items() if name == "engineroom_gpu_slot_state"} == {1.0}
    assert found["engineroom_gpu_slot_share_ratio", "MIG-a"].value == 3 / 7
    assert found["engineroom_gpu_slot_share_ratio", "GPU-1"].value == 0.0
    (stranded,) = [sample for (name, _), sample in found.items() if name == "engineroom_gpu_memory_stranded_bytes"]
    assert (stranded.key.get("slot"), stranded.key.get("cause"), stranded.value) == ("MIG-a", "held_free", 5.0)
