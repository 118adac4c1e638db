"""Field values: one call for all, each with its own code; and what a GPU has refused."""

import pynvml
import pytest

from agent.collect.gpu.calls import GpuUnavailable
from agent.collect.gpu.parts.part import Asker, FieldKey

ENERGY, MEMORY_TEMPERATURE, UNKNOWN, TOO_NEW = FieldKey(83), FieldKey(82), FieldKey(300), FieldKey(5000)


@pytest.fixture
def asker(bench):
    return Asker(bench.calls, "gpu", pynvml.nvmlDeviceGetHandleByIndex(0))


def test_one_call_and_a_code_for_each(bench, asker):
    found = asker.values([ENERGY, UNKNOWN, MEMORY_TEMPERATURE, TOO_NEW, ENERGY])
    assert found == {ENERGY: 0, MEMORY_TEMPERATURE: 48}
    assert asker.refused == {UNKNOWN, TOO_NEW}
    assert asker.narrow == {MEMORY_TEMPERATURE}
    assert bench.calls.counts == {"nvmlDeviceGetFieldValues": 1}
    asker.values([UNKNOWN, TOO_NEW])
    assert bench.calls.counts == {"nvmlDeviceGetFieldValues": 1}
    asker.forget()
    asker.values([UNKNOWN])
    assert bench.calls.counts == {"nvmlDeviceGetFieldValues": 2}


@pytest.mark.parametrize(
    ("code", "kept"), [(3, True), (2, True), (13, True), (26, True), (4, True), (17, False), (999, False)]
)
def test_a_field_that_is_refused_for_good(bench, asker, code, kept):
    bench.wish(field_codes={82: code})
    assert asker.values([ENERGY, MEMORY_TEMPERATURE]) == {ENERGY: 0}
    assert (MEMORY_TEMPERATURE in asker.refused) is kept
    assert any("field 82" in text for text in bench.calls.errors) is not kept


def test_a_field_that_says_the_gpu_is_lost(bench, asker):
    bench.wish(field_codes={82: 15})
    with pytest.raises(GpuUnavailable):
        asker.values([MEMORY_TEMPERATURE])


def test_what_is_not_offered(bench, asker):
    bench.facts(unsupported=("nvmlDeviceGetFanSpeed",))
    bench.control(returns={"nvmlDeviceGetTemperatureV": {"0": 4}})
    asker.try_ask("nvmlDeviceGetFanSpeed")
    asker.try_ask("nvmlDeviceGetTemperatureV", 0)
    asker.values([UNKNOWN, ENERGY])
    assert asker.not_offered == ("nvmlDeviceGetFanSpeed", "field 300")
    assert asker.never("nvmlDeviceGetFanSpeed")
    assert not asker.never("nvmlDeviceGetTemperatureV")  # it may be there; the right to it is missing


def test_a_scope_that_is_refused_does_not_close_the_others(bench, asker):
    bench.wish(power_of_module_only=True)
    assert asker.values([FieldKey(186), FieldKey(186, 1)]) == {FieldKey(186, 1): 104775}
    assert asker.not_offered == ()


def test_without_field_values_there_are_none(bench, asker):
    bench.control(returns={"nvmlDeviceGetFieldValues": {"0": 3}})
    assert asker.values([ENERGY]) == {}
