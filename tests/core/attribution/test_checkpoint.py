import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.checkpoint import Checkpoint, PodDevices, parse_checkpoint
from agent.core.attribution.podresources import Devices
from tests.support.proc_tree import checkpoint

UID = "0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"


@pytest.mark.parametrize("by_node", [True, False])
def test_both_shapes_of_device_ids(tmp_path: Path, by_node: bool) -> None:
    given_away = [(UID, "server", "nvidia.com/gpu", ["GPU-1", "GPU-2"])]
    file = checkpoint(tmp_path / "file", given_away, {"nvidia.com/gpu": ["GPU-1", "GPU-2", "GPU-3"]}, by_node=by_node)
    assert parse_checkpoint(file.read_bytes()) == Checkpoint(
        given=(PodDevices(pod_uid=UID, container="server", devices=Devices("nvidia.com/gpu", ("GPU-1", "GPU-2"))),),
        registered=(Devices("nvidia.com/gpu", ("GPU-1", "GPU-2", "GPU-3")),),
    )


def test_devices_of_several_nodes_and_none() -> None:
    entry = {
        "PodUID": UID,
        "ContainerName": "c",
        "ResourceName": "r",
        "DeviceIDs": {"0": ["a"], "1": ["b"], "-1": None},
    }
    raw = json.dumps({"Data": {"PodDeviceEntries": [entry], "RegisteredDevices": None}}).encode()
    assert parse_checkpoint(raw).given[0].devices.ids == ("a", "b")


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"{}", b'{"Data": []}', b"\xff\xfe", b"[" * 100_000])
def test_other_files_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"not JSON|no object"):
        parse_checkpoint(raw)


@pytest.mark.parametrize(
    "entry", [None, 1, [], {}, {"PodUID": 1}, {"PodUID": "", "ContainerName": "c", "ResourceName": "r"}]
)
def test_odd_entries_are_left_out(entry: object) -> None:
    assert parse_checkpoint(json.dumps({"Data": {"PodDeviceEntries": [entry]}}).encode()).given == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
)


@given(st.dictionaries(st.sampled_from(["PodDeviceEntries", "RegisteredDevices"]), JSON), JSON)
def test_any_json_is_read_or_refused(data: dict[str, object], ids: object) -> None:
    entry = {"PodUID": "u", "ContainerName": "c", "ResourceName": "r", "DeviceIDs": ids}
    assert len(parse_checkpoint(json.dumps({"Data": {"PodDeviceEntries": [entry]}}).encode()).given) == 1
    parse_checkpoint(json.dumps({"Data": data}).encode())
