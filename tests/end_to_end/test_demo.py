"""`engineroom demo` as a user runs it: real engine, sidecar and agent; each fault fires its alert, no fault none."""

import os
import signal
import sqlite3
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from agent.demo.faults import FAULTS
from tests.support.demo import ROOT, demo


def test_every_station_works_and_the_bill_is_price_times_time(tmp_path: Path) -> None:
    with demo(tmp_path, "--for", "30") as running:
        status, seen = running.finish()
    assert status == 0, "\n".join(running.lines)
    requests = seen["requests"]
    assert requests["sent"] == requests["recorded"] == requests["settled"] > 100
    assert len(seen["gpus"]) == 8
    assert all(gpu["simulated"] and gpu["samples"] >= 25 for gpu in seen["gpus"])
    assert seen["engines"][0]["kind"] == "llamacpp"
    assert seen["engines"][0]["up"]
    assert seen["alerts"]["firing"] == []
    cost = seen["cost"]
    assert cost["reconciles"]
    assert sum(cost["parts_nano"].values()) == cost["bill_nano"] > 0
    assert cost["parts_nano"]["unattributed"] > 0
    assert cost["parts_nano"]["request"] > 0
    assert recomputed_bill(tmp_path / "kept/data/ledger.sqlite") == booked(tmp_path / "kept/data/ledger.sqlite")


def booked(ledger: Path) -> dict[str, int]:
    """What the ledger booked, for each GPU, by plain SQL."""
    with sqlite3.connect(ledger) as connection:
        minutes = "SELECT gpu, sum(nano) FROM entries JOIN places ON places.id = place WHERE grain = 0 GROUP BY gpu"
        return dict(connection.execute(minutes))


def recomputed_bill(ledger: Path) -> dict[str, int]:
    """floor(price x wall time) from the price file and two instants for each GPU; none of the agent's code."""
    books = yaml.safe_load((ROOT / "deploy/examples/prices.yaml").read_text())["books"]
    (row,) = [
        row
        for book in books
        if book["currency"] == "CNY"
        for row in book["rows"]
        if row["gpu"] == "NVIDIA H100 80GB HBM3" and "effective_from" not in row
    ]
    bought = {key: Fraction(str(value)) for key, value in row["purchase"].items()}
    hours = bought["life_years"] * 365 * 24
    spread = bought["price"] - bought.get("salvage", 0) + bought.get("installation", 0)
    hourly = spread / bought["gpus"] / hours + bought.get("maintenance_per_year", 0) / bought["gpus"] / (365 * 24)
    energy = bought["power_watts"] / 1000 * bought["pue"] * bought["energy_price_per_kwh"]
    nano_per_ns = (hourly + energy + bought.get("other_per_hour", 0)) * 10**9 / (3600 * 10**9)
    with sqlite3.connect(ledger) as connection:
        times = connection.execute("SELECT gpu, from_ns, through_ns FROM accounts").fetchall()
    return {gpu: int(nano_per_ns * (through - start)) for gpu, start, through in times}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_fires_its_alert(tmp_path: Path, fault: str) -> None:
    with demo(tmp_path, "--for", "25", "--fault", fault) as running:
        status, seen = running.finish()
    assert status == 0, "\n".join(running.lines)
    assert FAULTS[fault].alert in seen["alerts"]["firing"]


def test_kill_9_in_the_middle_leaves_a_gap_and_counts_nothing_twice(tmp_path: Path) -> None:
    with demo(tmp_path, "--for", "25") as running:
        agent = int(running.wait_for(r"agent: process (\d+)").group(1))
        running.wait_for(r"requests (?:[4-9]\d|\d{3}) through")
        os.kill(agent, signal.SIGKILL)
        running.wait_for(r"agent: died with status -9, replaced")
        status, seen = running.finish()
    assert status == 0, "\n".join(running.lines)
    requests = seen["requests"]
    assert requests["sent"] == requests["settled"]
    assert seen["cost"]["reconciles"]
    assert seen["cost"]["parts_nano"]["gap"] > 0
    assert sum(seen["cost"]["parts_nano"].values()) == seen["cost"]["bill_nano"]


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        running.wait_for("the page: http")
        pids = [int(line.split("process ")[1].split(",")[0]) for line in running.lines if ": process " in line]
        running.process.send_signal(signal.SIGINT)
        assert running.process.wait(30) == 130
    assert len(pids) == 3
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
