import subprocess
import sys
from pathlib import Path

import pytest

from agent.collect.workloads import files
from agent.collect.workloads.files import LogFolders, NotThere, read_checkpoint
from tests.support.proc_tree import checkpoint, log_folders

UID = "0b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"
OTHER = "1b0c8f5e-7a52-4a66-9a3f-5d1f0c3e8a11"


def test_the_first_checkpoint_that_exists(tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "file", [(UID, "c", "nvidia.com/gpu", ["GPU-1"])])
    found = read_checkpoint((tmp_path / "none", Path("/dev/null/none"), file))
    assert found.given[0].pod_uid == UID


def test_what_is_wrong_with_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotThere, match="is not there"):
        read_checkpoint((tmp_path / "none",))
    with pytest.raises(NotThere, match="could not be read"):
        read_checkpoint((tmp_path,))
    torn = tmp_path / "torn"
    torn.write_text('{"Data": {"PodDev')
    with pytest.raises(NotThere, match="not what kubelet writes"):
        read_checkpoint((torn,))
    monkeypatch.setattr(files, "MAX_CHECKPOINT_BYTES", 10)
    with pytest.raises(NotThere, match="larger"):
        read_checkpoint((torn,))


def test_names_of_pods_and_containers(tmp_path: Path) -> None:
    pods = {("ml", "a", UID): {"server": "1" * 64, "proxy": "2" * 64}, ("ml", "b", OTHER): {"main": ""}}
    folders = LogFolders(*log_folders(tmp_path, pods))
    names = folders.read([UID])
    assert set(names.by_uid) == {UID, OTHER}
    assert names.containers == {UID: ("proxy", "server"), OTHER: ()}, "only wanted pods are looked into"
    assert names.by_container_id["2" * 64].container == "proxy"
    assert (folders.pods, folders.containers) == ("", "")


def test_under_docker_the_log_itself_names_the_container(tmp_path: Path) -> None:
    pod_logs, _ = log_folders(tmp_path, {("ml", "a", UID): {"server": ""}})
    log = pod_logs / f"ml_a_{UID}" / "server" / "0.log"
    log.unlink()
    log.symlink_to(f"/var/lib/docker/containers/{'3' * 64}/{'3' * 64}-json.log")
    names = LogFolders(pod_logs, tmp_path / "none").read([UID])
    assert names.by_container_id["3" * 64].container == "server"


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    folders = LogFolders(tmp_path / "none", tmp_path / "none")
    assert folders.read([UID]).by_uid == {}
    assert folders.pods == folders.containers == "is not there: mount it, read-only"


def test_folders_that_may_not_be_read(tmp_path: Path) -> None:
    """Asked as another user where we are root, who may read everything."""
    pod_logs, _ = log_folders(tmp_path, {})
    pod_logs.chmod(0)
    (tmp_path / "checkpoint").write_text("{}")
    (tmp_path / "checkpoint").chmod(0)
    code = (
        "import os, sys; from pathlib import Path\n"
        "from agent.collect.workloads.files import LogFolders, NotThere, read_checkpoint\n"
        "root = Path(sys.argv[1])\n"
        "os.chdir(root)\n"  # the folders above are closed to others
        "if os.geteuid() == 0: os.setgroups([]); os.setuid(65534)\n"
        "folders = LogFolders(Path('pods'), Path('containers'))\n"
        "folders.read([]); print(folders.pods)\n"
        "try: read_checkpoint((Path('checkpoint'),))\n"
        "except NotThere as error: print(error)\n"
    )
    tmp_path.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "may not be read: run as root\n" * 2, done.stderr
    pod_logs.chmod(0o700)
