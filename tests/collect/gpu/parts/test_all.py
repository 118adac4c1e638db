"""Order and tiers of the parts."""

from agent.collect.gpu.meters import NS
from agent.collect.gpu.parts.all import parts
from agent.collect.gpu.parts.part import TIERS


def test_each_gpu_has_parts_of_its_own():
    assert not set(parts(5 * NS)) & set(parts(5 * NS))


def test_a_part_comes_after_what_it_uses():
    order = [type(part).__name__ for part in parts(5 * NS)]
    for earlier, later in (
        ("Power", "Energy"),
        ("Power", "PowerLimit"),
        ("Reasons", "ThrottleTime"),
        ("Violations", "ThrottleTime"),
        ("Processes", "Doubtful"),
        ("Memory", "Doubtful"),
    ):
        assert order.index(earlier) < order.index(later)


def test_every_part_has_a_tier():
    assert {part.tier for part in parts(5 * NS)} == set(TIERS)
