"""Memory errors and what came of them."""

import pytest

from agent.core.gpu_readings import RECOVERY_ACTIONS, GpuErrors
from agent.demo.gpus.board import Wishes

ECC = {"corrected_volatile": 4, "uncorrected_volatile": 1, "corrected_aggregate": 40, "uncorrected_aggregate": 2}
WITHOUT_FIELDS = {"nvmlDeviceGetFieldValues": {"0": 3}}


def test_a_gpu_in_good_health(bench):
    assert bench.read().errors == GpuErrors(
        ecc_enabled=True,
        ecc_errors=dict.fromkeys(ECC, 0),
        remapped_rows={"corrected": 0, "uncorrected": 0},
        row_remap_pending=False,
        row_remap_failed=False,
        row_remap_banks={"max": 2560, "high": 0, "partial": 0, "low": 0, "none": 0},
        recovery_action="none",
    )


@pytest.mark.parametrize("returns", [{}, WITHOUT_FIELDS])
def test_a_gpu_in_bad_health_by_fields_or_calls(bench, returns):
    wishes = Wishes(
        ecc_errors=ECC,
        remapped_rows={"corrected": 3, "uncorrected": 1},
        row_remap_pending=True,
        row_remap_failed=True,
        row_remap_banks={"max": 2500, "high": 50, "none": 10},
        recovery_action=4,
    )
    bench.control(board={"0": wishes}, returns=returns)
    errors = bench.read().errors
    assert errors.ecc_errors == ECC
    assert errors.remapped_rows == {"corrected": 3, "uncorrected": 1}
    assert (errors.row_remap_pending, errors.row_remap_failed) == (True, True)
    assert errors.row_remap_banks == {"max": 2500, "high": 50, "partial": 0, "low": 0, "none": 10}
    assert errors.recovery_action == (None if returns else "drain_and_reset")


def test_before_ampere_pages_are_retired(gpu_bench):
    bench = gpu_bench(retires_pages=True, row_remap_banks=None)
    bench.wish(retired_pages={"single_bit": 2, "double_bit": 1}, retired_pages_pending=True)
    errors = bench.read().errors
    assert (errors.retired_pages, errors.retired_pages_pending) == ({"single_bit": 2, "double_bit": 1}, True)
    assert (errors.remapped_rows, errors.row_remap_banks) == (None, None)


def test_memory_without_ecc(gpu_bench):
    bench = gpu_bench("rtx4080sx2")
    errors = bench.read().errors
    assert errors == GpuErrors(recovery_action="none")


@pytest.mark.parametrize(
    ("number", "word"), [*enumerate(RECOVERY_ACTIONS), (8, "action 8"), (0xFFFFFFFF, None), (0x7FFFFFF2, None)]
)
def test_what_the_driver_wants_done(bench, number, word):
    bench.wish(fields={230: number})
    assert bench.read().errors.recovery_action == word


def test_no_number_that_is_none(bench):
    bench.wish(fields={4: 9223372036854775794, 142: 0xFFFFFFFF, 144: 7})
    errors = bench.read().errors
    assert "uncorrected_volatile" not in errors.ecc_errors
    assert errors.remapped_rows == {"uncorrected": 0}
    assert errors.row_remap_pending is None
