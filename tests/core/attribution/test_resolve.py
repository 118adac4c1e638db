import pytest

from agent.core.attribution.devices import parse_device_id
from agent.core.attribution.dra import parse_dra_device
from agent.core.attribution.resolve import AMBIGUOUS, NO_MINOR, NOT_SEEN, UNKNOWN_DEVICE, Slot, SlotIndex
from tests.support.gpu_slots import gpu, gpu_uuid, mig, mig_uuid, snapshot

NODE = SlotIndex(
    snapshot(
        gpu(0, minor=1),
        gpu(
            1,
            minor=0,
            mig=(
                mig(10, 7, profile="1g.10gb", placement_start=0),
                mig(11, 9, profile="1g.10gb", placement_start=1),
                mig(12, 2, profile="1c.3g.40gb", compute_instance=0),
                mig(13, 2, profile="1c.3g.40gb", compute_instance=1),
            ),
        ),
    )
)


@pytest.mark.parametrize(
    ("text", "slot"),
    [
        (gpu_uuid(0), Slot(gpu_uuid(0))),
        (f"{gpu_uuid(0)}::3", Slot(gpu_uuid(0))),
        (gpu_uuid(7), Slot(gpu_uuid(7), NOT_SEEN)),
        (mig_uuid(10), Slot(mig_uuid(10))),
        (mig_uuid(99), Slot(mig_uuid(99), NOT_SEEN)),
        (f"MIG-{gpu_uuid(1)}/9/0", Slot(mig_uuid(11))),
        (f"MIG-{gpu_uuid(1)}/2/1", Slot(mig_uuid(13))),
        (f"MIG-{gpu_uuid(1)}/3/0", Slot("", NOT_SEEN)),
        (f"MIG-{gpu_uuid(5)}/9/0", Slot("", NOT_SEEN)),
        ("nvidia1", Slot(gpu_uuid(0))),
        ("nvidia0/gi7", Slot(mig_uuid(10))),
        ("nvidia0/gi2", Slot("", AMBIGUOUS)),
        ("nvidia0/gi7/vgpu2", Slot(mig_uuid(10))),
        ("nvidia4", Slot("", NOT_SEEN)),
        ("tegra", Slot("", NOT_SEEN)),
        ("whatever", Slot("", UNKNOWN_DEVICE)),
    ],
)
def test_ids_of_device_plugins(text: str, slot: Slot) -> None:
    assert NODE.of_device(parse_device_id(text)) == slot


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("gpu-1", Slot(gpu_uuid(0))),
        ("gpu-0-mig-1g10gb-19-1", Slot(mig_uuid(11))),
        ("gpu-0-mig-1g10gb-19-5", Slot("", NOT_SEEN)),
        ("gpu-0-mig-1c3g40gb-9-4", Slot("", AMBIGUOUS)),
        ("gpu-0-mig-7g80gb-0-0", Slot("", NOT_SEEN)),
        ("gpu-9", Slot("", NOT_SEEN)),
        ("nic-0", Slot("", UNKNOWN_DEVICE)),
    ],
)
def test_names_of_the_dra_driver(name: str, slot: Slot) -> None:
    assert NODE.of_dra(parse_dra_device(name)) == slot


def test_one_slice_of_a_profile_needs_no_placement() -> None:
    index = SlotIndex(snapshot(gpu(0, mig=(mig(1, 3, profile="4g.95gb"), mig(2, 4, profile="1g.24gb")))))
    assert index.of_dra(parse_dra_device("gpu-0-mig-4g95gb-5-0")) == Slot(mig_uuid(1))


def test_a_minor_number_that_is_not_told_is_said_to_be_the_reason() -> None:
    index = SlotIndex(snapshot(gpu(0, minor=None), gpu(1, minor=0)))
    assert index.of_device(parse_device_id("nvidia0")) == Slot(gpu_uuid(1))
    assert index.of_device(parse_device_id("nvidia1")) == Slot("", NO_MINOR)
    assert index.of_dra(parse_dra_device("gpu-1")) == Slot("", NO_MINOR)


def test_the_one_gpu_of_a_jetson() -> None:
    assert SlotIndex(snapshot(gpu(0, minor=None))).of_device(parse_device_id("tegra")) == Slot(gpu_uuid(0))
