"""Lines as drivers write them, and lines that no driver writes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.xid import XidLine, parse_xid, pci_key

CAPTURE = Path(__file__).resolve().parents[3] / "shared/captures/gpu/leptonai-gpud/dmesg-with-xid-119.log"


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (
            "NVRM: Xid (PCI:0000:07:00): 79, pid=1234, name=python, GPU has fallen off the bus.",
            XidLine(pci="0000:07:00", xid=79, pid=1234, process="python", text="GPU has fallen off the bus."),
        ),
        (
            "[ 12.5] NVRM: Xid (PCI:0000:07:00.0): 13, pid='<unknown>', name=<unknown>, Graphics Exception",
            XidLine(pci="0000:07:00", xid=13, text="Graphics Exception"),
        ),
        ("NVRM: Xid (PCI:0000:07:00): 79, GPU is lost.", XidLine(pci="0000:07:00", xid=79, text="GPU is lost.")),
        ("NVRM: Xid (PCI:0000:07:00): 79", XidLine(pci="0000:07:00", xid=79)),
        ("NVRM: Xid (0000:03:00): 14, Channel 01", XidLine(pci="0000:03:00", xid=14, text="Channel 01")),
        (
            "NVRM: Xid (PCI:0000:01:00 GPU-I:05): 94, pid=7194, Contained: CE",
            XidLine(pci="0000:01:00", xid=94, pid=7194, gpu_instance=5, text="Contained: CE"),
        ),
        (
            "NVRM: Xid (PCI:0001:0A:00 GPU-I:05 GPU-CI:00): 31, pid=1, name=a b, Ch 8, intr 0",
            XidLine(
                pci="0001:0a:00",
                xid=31,
                pid=1,
                process="a b",
                gpu_instance=5,
                compute_instance=0,
                text="Ch 8, intr 0",
            ),
        ),
        (
            "NVRM: Xid (PCI:0000:01:00): 31, pid=99999999999, name=, x",
            XidLine(pci="0000:01:00", xid=31, text="x"),
        ),
    ],
)
def test_lines_of_drivers(line, wanted):
    assert parse_xid(line) == wanted


@pytest.mark.parametrize(
    "line",
    [
        "",
        "NVRM: GPU at PCI:0000:9b:00: GPU-509665ad-b600-ac93-3616-d754b23d636d",
        "NVRM: Xid (PCI:nowhere): 79, x",
        "NVRM: Xid (PCI:0000:9b:00): many, x",
        "NVRM: Xid (PCI:0000:9b:00): 9999999999, x",
        "NVRM: Rate limiting GSP RPC error prints for GPU at PCI:0000:9b:00 (printing 1 of every 30).",
    ],
)
def test_other_lines(line):
    assert parse_xid(line) is None


@pytest.mark.skipif(not CAPTURE.exists(), reason="the captures lie outside this repository")
def test_a_real_log_of_gsp_timeouts():
    """Each time-out is one Xid and dozens of lines of history and stack trace."""
    found = [line for line in map(parse_xid, CAPTURE.read_text().splitlines()) if line is not None]
    assert [(line.pci, line.xid) for line in found] == [("0000:9b:00", 119)] * 5
    assert [line.process for line in found] == ["nvidia-smi"] * 3 + ["cache_mgr_main", "gpud"]
    assert [line.pid for line in found] == [2024380] * 3 + [1263500, 1240590]


@pytest.mark.parametrize(
    ("bus_id", "key"),
    [
        ("00000000:1B:00.0", "0000:1b:00"),
        ("0000:1b:00", "0000:1b:00"),
        ("1b:00.0", "0000:1b:00"),
        ("00010000:1B:00.0", "10000:1b:00"),
        ("10000:1b:00", "10000:1b:00"),
        ("0008:01:00.0", "0008:01:00"),
        ("", None),
        (None, None),
        ("GPU-1", None),
    ],
)
def test_one_spelling_for_one_place(bus_id, key):
    assert pci_key(bus_id) == key


@given(st.text(max_size=200))
def test_no_line_raises(text):
    parse_xid(text)
    found = parse_xid(f"NVRM: Xid (PCI:0000:07:00): 31, {text}")
    assert found is not None
    assert len(found.text) <= 240
