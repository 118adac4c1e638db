import subprocess
import sys
from pathlib import Path

import pytest

from agent.core.ports import ConfigError
from agent.datafolder import DataFolder, default_folder

HOLD = """
import sys
from pathlib import Path
from agent.datafolder import DataFolder
DataFolder(Path(sys.argv[1])); print("held", flush=True); sys.stdin.read()
"""


def test_two_agents_on_one_folder_are_told_apart(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(
            ConfigError, match=rf"storage\.data_dir: .* in use by another agent \(process {other.pid}\)"
        ):
            DataFolder(tmp_path)
        other.kill()  # the kernel gives the lock back, whatever way the holder ended
        other.wait()
    DataFolder(tmp_path).close()


def test_the_lock_does_not_reach_children(tmp_path: Path) -> None:
    with DataFolder(tmp_path), subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        held = {str(link.resolve()) for link in Path(f"/proc/{child.pid}/fd").iterdir()}
        assert str(tmp_path / "lock") not in held
        child.kill()


def test_the_node_keeps_its_id(tmp_path: Path) -> None:
    with DataFolder(tmp_path) as folder:
        first = folder.node_id("machine-a")
        assert folder.node_id("machine-b") == first
        assert "machine-a" not in first


def test_an_unusable_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"storage\.data_dir: .*must be a folder that this user can write"):
        DataFolder(tmp_path / "file")


def test_default_folder() -> None:
    assert default_folder({}, is_root=True) == Path("/var/lib/engineroom")
    assert default_folder({"XDG_STATE_HOME": "/s"}, is_root=False) == Path("/s/engineroom")
