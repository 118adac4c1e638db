import msgspec
import pytest

from agent.demo.gpus.control import Control, ControlFile, SimulatedProcess, write

WISHES = Control(
    load={"0": 0.8},
    processes={"0": [SimulatedProcess(pid=123, memory_bytes=8_000_000_000)]},
    temperature={"0": 93},
    memory_used_ratio={"0": 0.98},
    lost=[3],
    hang=[5],
    returns={"nvmlDeviceGetPowerUsage": {"0": 15}},
)


def test_what_is_written_is_read_once(tmp_path):
    path = tmp_path / "control.json"
    file = ControlFile(path)
    assert file.changed() is None
    write(path, WISHES)
    assert file.changed() == WISHES
    assert file.changed() is None
    write(path, Control())
    assert file.changed() == Control()
    path.unlink()
    assert file.changed() == Control()
    assert file.changed() is None
    assert list(tmp_path.iterdir()) == []


def test_no_file_no_wishes():
    assert ControlFile(None).changed() is None


@pytest.mark.parametrize("text", ['{"lod": {}}', '{"load": {"0": "much"}}', "{"])
def test_mistakes_are_named(tmp_path, text):
    path = tmp_path / "control.json"
    path.write_text(text)
    with pytest.raises(msgspec.DecodeError):
        ControlFile(path).changed()
