"""Which processes of an engine still run."""

from pathlib import Path

from agent.clock import NS, boot_ns
from agent.collect.engines.alive import Processes
from tests.support.child import child


def stat(proc: Path, pid: int, ticks: int, state: str = "S") -> None:
    (proc / str(pid)).mkdir(parents=True, exist_ok=True)
    rest = " ".join(["0"] * 17)
    (proc / str(pid) / "stat").write_text(f"{pid} (a b) c) {state} 1 {rest} {ticks} 0\n")


def test_a_real_process_ends() -> None:
    with child() as process:
        seen = Processes((process.pid, 2**22 + 1))
        assert seen.alive() == (process.pid,)
        assert seen.started_boot_ns is not None
        assert 0 <= boot_ns() - seen.started_boot_ns < 60 * NS
        process.kill()
        process.poll()  # it may be a zombie until it is waited for
        process.wait()
        assert seen.alive() == ()


def test_a_later_process_of_the_same_pid_is_none_of_them(tmp_path: Path) -> None:
    stat(tmp_path, 7, 100)
    stat(tmp_path, 8, 100)
    seen = Processes((7, 8), tmp_path)
    assert seen.alive() == (7, 8)
    stat(tmp_path, 7, 200)
    assert seen.alive() == (8,)
    stat(tmp_path, 8, 100, "Z")
    assert seen.alive() == ()


def test_what_is_not_visible(tmp_path: Path) -> None:
    seen = Processes((7,), tmp_path)
    assert seen.alive() == ()
    assert seen.started_boot_ns is None
    assert Processes().started_boot_ns is None
    (tmp_path / "9").mkdir()
    (tmp_path / "9" / "stat").write_text("nonsense")
    assert Processes((9,), tmp_path).alive() == ()
