"""Health as a program sees it that knows only NVML: calls and fields say the same."""

import pynvml


def test_calls_and_fields_agree(simulated, gpu_handle):
    simulated.wish(
        ecc_errors={"corrected_volatile": 7, "uncorrected_aggregate": 2},
        remapped_rows={"corrected": 3, "uncorrected": 1},
        row_remap_pending=True,
    )
    assert pynvml.nvmlDeviceGetEccMode(gpu_handle) == [1, 1]
    assert pynvml.nvmlDeviceGetTotalEccErrors(gpu_handle, 0, 0) == 7
    assert pynvml.nvmlDeviceGetTotalEccErrors(gpu_handle, 1, 1) == 2
    fields = pynvml.nvmlDeviceGetFieldValues(gpu_handle, [3, 4, 5, 6])
    assert [item.value.ullVal for item in fields] == [7, 0, 0, 2]
    rows = pynvml.nvmlDeviceGetRemappedRows(gpu_handle)
    assert rows == tuple(f.value.uiVal for f in pynvml.nvmlDeviceGetFieldValues(gpu_handle, [142, 143, 144, 145]))
    assert rows == (3, 1, 1, 0)
    assert pynvml.nvmlDeviceGetRowRemapperHistogram(gpu_handle).max == 2560


def test_newer_gpus_retire_no_pages(gpu_handle):
    assert [f.nvmlReturn for f in pynvml.nvmlDeviceGetFieldValues(gpu_handle, [29, 30, 31])] == [3, 3, 3]
