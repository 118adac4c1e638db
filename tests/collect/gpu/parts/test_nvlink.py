"""NVLinks, of every generation."""

import pytest

from agent.collect.gpu.parts.nvlink import ERRORS

OLDER = {"crc_flit", "crc_data", "replay", "recovery", "ecc"}


def test_nvlink_4(bench):
    bench.wish(load=0.5, nvlink_errors=3, nvlinks_down=[4, 17])
    nvlink = bench.read(11).nvlink
    assert (nvlink.links, nvlink.links_active) == (18, 16)
    assert nvlink.transmitted_bytes == pytest.approx(11 * 50e9, rel=1e-6)
    assert nvlink.errors == dict.fromkeys(OLDER, 3)


def test_nvlink_5(gpu_bench):
    bench = gpu_bench(nvlink_generation=5)
    bench.wish(load=0.5, nvlink_errors=3)
    nvlink = bench.read(21).nvlink
    assert nvlink.received_bytes == pytest.approx(21 * 50e9, rel=1e-6)
    assert nvlink.errors == dict.fromkeys(ERRORS.keys() - OLDER, 3)


def test_links_that_only_a_call_tells_of(bench):
    bench.facts(unsupported_fields=(165,))
    bench.wish(nvlinks_down=[0])
    assert bench.read().nvlink.links_active == 17
    assert bench.calls.counts["nvmlDeviceGetNvLinkState"] == 18


def test_no_links(gpu_bench):
    bench = gpu_bench("rtx4080sx2")
    assert bench.read(30).nvlink is None
    assert "nvmlDeviceGetNvLinkState" not in bench.calls.counts


def test_a_number_of_links_that_cannot_be(bench):
    bench.wish(fields={91: 0x7FFFFFF2})
    assert bench.read(21).nvlink is None
