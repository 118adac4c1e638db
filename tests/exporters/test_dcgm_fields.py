"""The table against NVIDIA's own lists."""

import csv

import pytest
from msgspec.structs import replace

from agent.core.gpu_readings import RECOVERY_ACTIONS, GpuActivity, GpuErrors
from exporters.dcgm_entity import Entity
from exporters.dcgm_fields import FIELDS, NOT_GIVEN, OF_THE_SLICE
from tests.support.dcgm import gpu, in_mig_mode, mig, older_gpu

BY_NAME = {f"DCGM_FI_{field.name}": field for field in FIELDS}
GAUGE_FOR_COUNTER = {"DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL"}  # DCGM gives a rate there, whatever the file says
EARLIER_NOTE = {"DCGM_FI_PROF_PCIE_TX_BYTES", "DCGM_FI_PROF_PCIE_RX_BYTES"}  # two lines; the one in force says gauge


def test_numbers_are_in_order_and_names_are_there_once():
    numbers = [field.number for field in FIELDS]
    assert numbers == sorted(set(numbers))
    names = [name for field in FIELDS for name in {field.name, field.new or field.name}]
    assert len(names) == len(set(names))


def test_every_help_is_one_line_of_ours():
    assert all(field.help and "\n" not in field.help and "\\" not in field.help for field in FIELDS)


def test_names_and_numbers_are_those_of_dcgm(shared):
    listed = (shared / "captures/gpu/NVIDIA-DCGM/dcgm_fields_4.6.tsv").read_text().splitlines()[1:]
    rows = {int(number): (new, aliases) for number, new, aliases, *_ in (line.split("\t") for line in listed)}
    for field in FIELDS:
        new, aliases = rows[field.number]
        assert new == f"DCGM_FI_{field.new or field.name}"
        assert new == f"DCGM_FI_{field.name}" or f"DCGM_FI_{field.name}" in aliases.replace(",", " ").split()


def test_types_are_those_of_the_stock_configuration_and_nothing_of_it_is_forgotten(shared):
    text = (shared / "captures/gpu/NVIDIA-DCGM/dcgm-exporter__default-counters.csv").read_text()
    seen = set()
    for row in csv.reader(text.splitlines()):
        if len(row) < 3 or not (name := row[0].lstrip("# ").strip()).startswith("DCGM_"):
            continue
        kind = row[1].strip()
        if kind == "label" or name == "DCGM FIELD":
            continue
        on = not row[0].startswith("#")
        seen.add(name)
        if name in NOT_GIVEN or name == "DCGM_EXP_XID_ERRORS_COUNT":
            continue
        field = BY_NAME[name]
        if name not in GAUGE_FOR_COUNTER and (on or name not in EARLIER_NOTE):
            assert field.type == kind, name
        if on:
            assert field.stock, name
        elif name not in EARLIER_NOTE:
            assert not field.stock, name
    assert len(seen) > 45
    assert NOT_GIVEN.keys() <= seen
    assert not NOT_GIVEN.keys() & BY_NAME.keys()


def test_which_fields_slices_of_one_gpu_differ_in():
    small = mig(1, memory_used_bytes=1, memory_free_bytes=2, memory_total_bytes=3, memory_reserved_bytes=4)
    ratios = GpuActivity(**dict.fromkeys(GpuActivity.__struct_fields__, 0.5))
    reading = in_mig_mode(0)
    one = Entity(
        gpu=reading, instance=mig(1, activity=GpuActivity(**dict.fromkeys(GpuActivity.__struct_fields__, 0.1)))
    )
    large = replace(small, memory_used_bytes=10**9, memory_free_bytes=10**9, memory_total_bytes=10**11, activity=ratios)
    other = Entity(gpu=reading, instance=replace(large, memory_reserved_bytes=10**9))
    assert {field.number for field in FIELDS if field.text(one) != field.text(other)} == OF_THE_SLICE


@pytest.mark.parametrize(
    ("action", "number"),
    [
        *((word, str(number)) for number, word in enumerate(RECOVERY_ACTIONS)),
        ("action 9", "9"),
        ("unheard_of", None),
        (None, None),
    ],
)
def test_recovery_actions_are_numbers(action, number):
    field = BY_NAME["DCGM_FI_DEV_GET_GPU_RECOVERY_ACTION"]
    assert field.text(Entity(gpu=gpu(errors=GpuErrors(recovery_action=action)))) == number


def test_retired_pages_of_old_gpus():
    errors = GpuErrors(retired_pages={"single_bit": 2, "double_bit": 1}, retired_pages_pending=True)
    entity = Entity(gpu=older_gpu(errors=errors))
    names = ("DCGM_FI_DEV_RETIRED_SBE", "DCGM_FI_DEV_RETIRED_DBE", "DCGM_FI_DEV_RETIRED_PENDING")
    assert [BY_NAME[name].text(entity) for name in names] == ["2", "1", "1"]


def test_a_gpu_that_said_nothing_has_no_values():
    silent = gpu(**{name: None for name in gpu().__struct_fields__[8:] if name not in FLAGS})
    assert [field.name for field in FIELDS if field.text(Entity(gpu=silent)) is not None] == []


FLAGS = {"utilization_doubtful", "not_offered", "simulated", "pci_bus_id", "driver_version", "cuda_version"}
