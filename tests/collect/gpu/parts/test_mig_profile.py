import pytest

from agent.collect.gpu.parts.mig_profile import derived_profile, stated_profile

MIB = 2**20
H100, H200 = 81559 * MIB, 143771 * MIB


@pytest.mark.parametrize(
    ("name", "profile"),
    [
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "1g.10gb"),
        ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", "1c.3g.20gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "1g.10gb+me"),
        ("NVIDIA H100 80GB HBM3", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_what_the_driver_calls_it(name, profile):
    assert stated_profile(name) == profile


# Slices, slices of the GPU instance and its memory as the real captures show them, and what nvidia-smi -L prints.
@pytest.mark.parametrize(
    ("part", "whole", "mebibytes", "gpu", "profile"),
    [
        (3, 3, 40448, H100, "3g.40gb"),
        (2, 2, 20096, H100, "2g.20gb"),
        (1, 1, 9984, H100, "1g.10gb"),
        (1, 3, 71424, H200, "1c.3g.71gb"),
        (2, 3, 71424, H200, "2c.3g.71gb"),
        (2, 2, 33280, H200, "2g.35gb"),
        (1, 1, 16384, H200, "1g.18gb"),
        (None, 3, 40448, H100, ""),
        (3, 3, 0, H100, ""),
        (3, 3, 40448, None, ""),
    ],
)
def test_what_it_is_made_of(part, whole, mebibytes, gpu, profile):
    assert derived_profile(part, whole, mebibytes, gpu) == profile
