"""Each field of a batch has its own code, type and value."""

import pynvml


def test_codes_and_values_that_a_test_asks_for(simulated, gpu_handle):
    simulated.wish(field_codes={82: 999}, fields={83: 9223372036854775794})
    temperature, energy, unknown, too_new = pynvml.nvmlDeviceGetFieldValues(gpu_handle, [82, 83, 300, 5000])
    assert (temperature.nvmlReturn, energy.nvmlReturn) == (999, 0)
    assert energy.value.ullVal == 9223372036854775794
    assert (unknown.nvmlReturn, too_new.nvmlReturn) == (3, 2)


def test_the_width_of_the_pcie_counters(simulated, gpu_handle):
    assert pynvml.nvmlDeviceGetFieldValues(gpu_handle, [197])[0].valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
    facts = simulated.node.gpus[0].facts
    simulated.facts(board=type(facts.board)(pcie_generation=4, pcie_bits=32))
    assert pynvml.nvmlDeviceGetFieldValues(gpu_handle, [197])[0].valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
