from agent.core.catalogue_xids import XIDS
from agent.core.workloads import Feature
from agent.core.xid_ledger import XidLedger
from agent.core.xid_samples import watcher_samples, xid_samples
from tests.support.xids import S, gpu, held, kernel, nvml, pod, seen, snapshot

LABELS = {"node": "n", "gpu": "0", "uuid": "GPU-0", "gpu_model": "H100"}


def found(samples, name, **wanted):
    """Values of the series of this name that carry these labels."""
    return [
        (dict(sample.key.labels), sample.value)
        for sample in samples
        if sample.key.name == f"engineroom_gpu_{name}" and wanted.items() <= dict(sample.key.labels).items()
    ]


def test_counters_instants_and_who_was_hit():
    ledger = XidLedger()
    ledger.observe_gpus(snapshot(gpu(), xids=[nvml(79, 100, count=3)]), seen([held("GPU-0", pod("a"))]))
    samples = list(xid_samples("n", ledger, 100 * S))
    assert found(samples, "xid_errors_total", xid="79") == [({**LABELS, "xid": "79"}, 3)]
    assert found(samples, "xid_errors_total", xid="48") == [({**LABELS, "xid": "48"}, 0)]
    assert found(samples, "xid_last_seconds") == [({**LABELS, "xid": "79"}, 100)]
    about = {"xid": "79", "class": "hardware", "action": "RESTART_BM"}
    place = {"workload_namespace": "ml", "workload_pod": "a", "workload_container": "main"}
    assert found(samples, "xid_info") == [({**LABELS, **about, **place}, 1)]
    assert found(xid_samples("n", ledger, 4000 * S), "xid_info") == []


def test_an_error_of_nobodys_gpu_has_no_labels_of_a_gpu():
    ledger = XidLedger()
    ledger.observe_gpus(snapshot(gpu()))
    ledger.observe([kernel(79, 100, pci="0000:ff:00")])
    samples = list(xid_samples("n", ledger, 100 * S))
    assert ({"node": "n", "xid": "79"}, 1.0) in found(samples, "xid_errors_total", xid="79")
    assert len(found(samples, "xid_info")) == 1


def test_the_same_error_twice_in_an_hour_is_one_series():
    ledger = XidLedger()
    ledger.observe_gpus(snapshot(gpu()))
    ledger.observe([nvml(31, 100), nvml(31, 900)])
    assert len(found(xid_samples("n", ledger, 900 * S), "xid_info")) == 1


def test_health_of_the_watchers():
    ledger = XidLedger()
    heard = snapshot(events_watched=True, events_seen={"xid": 4}, events_dropped=2)
    samples = list(watcher_samples("n", ledger, heard, Feature(name="kernel_log", enabled=False, reason="x"), 3))
    assert found(samples, "events_watched") == [({"node": "n"}, 1)]
    assert found(samples, "kernel_log_watched") == [({"node": "n"}, 0)]
    assert found(samples, "xid_dropped_total") == [({"node": "n"}, 5)]
    assert found(samples, "events_total") == [({"node": "n", "event": "xid"}, 4)]
    nothing = list(watcher_samples("n", ledger, snapshot(events_watched=None), None))
    assert found(nothing, "events_watched") == found(nothing, "kernel_log_watched") == []


def test_all_that_is_said_is_in_the_catalogue():
    ledger = XidLedger()
    ledger.observe_gpus(snapshot(gpu(), xids=[nvml(79, 100)]), seen([held("GPU-0", pod("a"))]))
    heard = snapshot(events_watched=True, events_seen={"xid": 4})
    samples = list(xid_samples("n", ledger, 100 * S))
    samples += watcher_samples("n", ledger, heard, Feature(name="kernel_log", enabled=True))
    known = {metric.name: set(metric.labels) for metric in XIDS}
    assert {sample.key.name for sample in samples} == known.keys()
    for sample in samples:
        assert {label for label, _ in sample.key.labels} <= known[sample.key.name]
