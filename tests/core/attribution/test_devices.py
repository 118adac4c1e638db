import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.devices import DeviceId, parse_device_id

G = "GPU-d1a2b3c4-0f1e-2d3c-4b5a-69788796a5b4"
M = "MIG-d1a2b3c4-0f1e-2d3c-4b5a-69788796a5b4"

FORMS = {
    G: DeviceId(kind="gpu", uuid=G),
    f"{G}::0": DeviceId(kind="gpu", uuid=G, replica="0"),
    f"{G}::11": DeviceId(kind="gpu", uuid=G, replica="11"),
    M: DeviceId(kind="mig", uuid=M),
    f"{M}::7": DeviceId(kind="mig", uuid=M, replica="7"),
    f"MIG-{G}/7/0": DeviceId(kind="mig_by_instance", uuid=G, gpu_instance=7, compute_instance=0),
    f"MIG-{G}/7/0::2": DeviceId(kind="mig_by_instance", uuid=G, gpu_instance=7, compute_instance=0, replica="2"),
    "nvidia0": DeviceId(kind="minor", minor=0),
    "nvidia12/gi7": DeviceId(kind="minor", minor=12, gpu_instance=7),
    "nvidia0/vgpu1": DeviceId(kind="minor", minor=0, replica="1"),
    "nvidia0/gi7/vgpu3": DeviceId(kind="minor", minor=0, gpu_instance=7, replica="3"),
    "tegra": DeviceId(kind="tegra"),
    "tegra::1": DeviceId(kind="tegra", replica="1"),
}


@pytest.mark.parametrize("text", FORMS)
def test_each_form(text: str) -> None:
    assert parse_device_id(text) == FORMS[text]


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "65", "nvidia", "nvidiactl", "nvidia0/vgpu", "GPU-1", "0000:1a:00.0", "all"),
        *(f"{G}::", f"{G}::a", f"{G}\n", f" {G}", f"{G}/7/0", f"MIG-{G}", "nvidia" + "9" * 40, "nvidia٣"),
    ],
)
def test_other_texts_are_no_device(text: str) -> None:
    assert parse_device_id(text) is None


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    parse_device_id(text)


@given(st.sampled_from(sorted(FORMS)), st.text(max_size=4), st.integers(0, 60))
def test_a_damaged_id_never_names_another_device(text: str, noise: str, at: int) -> None:
    """Whatever still parses has a uuid that stands in the text, or none."""
    damaged = text[:at] + noise + text[at:]
    found = parse_device_id(damaged)
    assert found is None or found.uuid in damaged
