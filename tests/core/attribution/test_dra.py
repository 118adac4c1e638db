import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.dra import DraDevice, is_passed_through, name_in_cdi, parse_dra_device, profile_in_names


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("gpu-0", DraDevice(minor=0)),
        ("gpu-15", DraDevice(minor=15)),
        ("gpu-2-mig-4g95gb-5-0", DraDevice(minor=2, profile="4g95gb", placement_start=0)),
        ("gpu-0-mig-1g10gb-19-6", DraDevice(minor=0, profile="1g10gb", placement_start=6)),
        ("gpu-0-mig-1g10gb-me-20-6", DraDevice(minor=0, profile="1g10gb-me", placement_start=6)),
        ("gpu-0-mig-1c-3g40gb-9-4", DraDevice(minor=0, profile="1c-3g40gb", placement_start=4)),
        ("gpu-vfio-0", None),
        ("gpu-0-mig-1g10gb", None),
        ("gpu-", None),
        ("channel-0", None),
        ("", None),
    ],
)
def test_names(name: str, device: DraDevice | None) -> None:
    assert parse_dra_device(name) == device
    assert is_passed_through(name) == name.startswith("gpu-vfio")


@pytest.mark.parametrize(
    ("cdi", "name"),
    [
        ("k8s.gpu.nvidia.com/claim=0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11-gpu-3", "gpu-3"),
        ("k8s.gpu.nvidia.com/device=gpu-0", "gpu-0"),
        ("k8s.gpu.nvidia.com/claim=0b0c8f5e-gpu-0-mig-1g10gb-19-6", "gpu-0-mig-1g10gb-19-6"),
        ("k8s.gpu.nvidia.com/claim=0b0c8f5e-gpu-vfio-1", "gpu-vfio-1"),
        ("vendor.com/nic=gpu-0", ""),
        ("k8s.gpu.nvidia.com/claim=0b0c8f5e", ""),
    ],
)
def test_names_within_cdi_names(cdi: str, name: str) -> None:
    assert name_in_cdi(cdi) == name


@pytest.mark.parametrize(
    ("profile", "written"), [("4g.95gb", "4g95gb"), ("1g.10gb+me", "1g10gb-me"), ("1c.3g.40gb", "1c3g40gb"), ("", "")]
)
def test_profiles_as_names_write_them(profile: str, written: str) -> None:
    assert profile_in_names(profile) == written


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    parse_dra_device(text)
    is_passed_through(text)
    name_in_cdi(text)
    profile_in_names(text)


@given(st.integers(0, 10**9 - 1), st.from_regex(r"[1-7]g[0-9]{1,3}gb(-me)?", fullmatch=True), st.integers(0, 99))
def test_what_the_driver_writes_is_read(minor: int, profile: str, start: int) -> None:
    device = DraDevice(minor=minor, profile=profile, placement_start=start)
    assert parse_dra_device(f"gpu-{minor}-mig-{profile}-19-{start}") == device
