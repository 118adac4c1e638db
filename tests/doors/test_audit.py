import errno
import json
import os
import resource
import stat
from pathlib import Path

import pytest
import structlog

from agent.core.ports import TryLater
from agent.doors.audit import MAX_CHARACTERS, MIN_BYTES, AuditLog
from agent.doors.identity import Identity

OPS = Identity(name="ops", kind="token", scopes=frozenset({"admin"}))
AT = 1_780_000_000_123_456_789


def log_in(folder: Path, max_bytes: int = MIN_BYTES) -> AuditLog:
    return AuditLog(folder / "audit.log", max_bytes, unix_ns=lambda: AT)


def note(log: AuditLog, target: str = "x", who: Identity = OPS) -> None:
    log.record(who=who, source="10.0.0.1", action="dlq.replay", target=target, result="done")


def lines(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def test_a_line_says_who_did_what_from_where(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as logs:
        note(log_in(tmp_path))
    file = tmp_path / "audit.log"
    assert lines(file) == [
        {
            "at": "2026-05-28T20:26:40.123456789Z",
            "name": "ops",
            "kind": "token",
            "source": "10.0.0.1",
            "action": "dlq.replay",
            "target": "x",
            "result": "done",
        }
    ]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [(entry["event"], entry["name"]) for entry in logs] == [("admin_action", "ops")]


@pytest.mark.parametrize(
    "target", ['a\n{"name": "root"}', "a\r\nb", "\u2028\u2029\u0085", "\x1b[2J\x00", "\ud800", '"\\', "ü€😀‮"]
)
def test_no_value_makes_a_second_line_or_reaches_a_terminal_raw(tmp_path: Path, target: str) -> None:
    note(log_in(tmp_path), target)
    raw = (tmp_path / "audit.log").read_bytes()
    assert raw.count(b"\n") == 1
    assert all(0x20 <= byte <= 0x7E for byte in raw[:-1])
    assert json.loads(raw)["target"] == target


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    note(log_in(tmp_path), "x" * 100_000)
    target = lines(tmp_path / "audit.log")[0]["target"]
    assert len(target) == MAX_CHARACTERS
    assert target.endswith("x...")


def test_the_file_is_bounded_and_one_older_one_kept(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    for number in range(250):
        note(log, f"{number:0900}")
        assert log.path.stat().st_size <= MIN_BYTES
    assert sorted(file.name for file in tmp_path.iterdir()) == ["audit.log", "audit.log.1"]
    kept = [int(line["target"]) for line in lines(log.older) + lines(log.path)]
    assert kept == list(range(250 - len(kept), 250))
    assert len(kept) > MIN_BYTES // 1100
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_line_that_a_crash_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    (tmp_path / "audit.log").write_bytes(b'{"at": "2026')
    note(log_in(tmp_path))
    torn, whole = (tmp_path / "audit.log").read_bytes().splitlines()
    assert torn == b'{"at": "2026'
    assert json.loads(whole)["target"] == "x"


def test_the_file_may_be_moved_away(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(log, "a")
    log.path.rename(tmp_path / "elsewhere")
    note(log, "b")
    assert [line["target"] for line in lines(log.path)] == ["b"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit.log").symlink_to(tmp_path / "victim")
    with pytest.raises(TryLater):
        note(log_in(tmp_path))
    assert not (tmp_path / "victim").exists()


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    log = AuditLog(Path("/dev/full"))
    with (
        structlog.testing.capture_logs() as logs,
        pytest.raises(TryLater, match=r"not done, .*No space left on device"),
    ):
        note(log)
    assert [entry["event"] for entry in logs] == ["audit_not_written"]
    with pytest.raises(TryLater, match="No such file or directory"):
        note(log_in(tmp_path / "absent"))


def test_a_line_that_is_only_partly_written_is_taken_back(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    note(log)
    before = log.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))  # the kernel writes 20 bytes of the line
    try:
        with structlog.testing.capture_logs(), pytest.raises(TryLater, match="not done"):
            note(log)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.path.read_bytes() == before
    note(log)
    assert len(lines(log.path)) == 2


def test_a_line_that_does_not_reach_the_disk_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = log_in(tmp_path)

    def fail(number: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(TryLater, match="Input/output error"):
        note(log)
    assert log.path.read_bytes() == b""


def test_a_new_files_name_is_made_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"/proc/self/fd/{number}").readlink()))
    log = log_in(tmp_path)
    note(log)
    note(log)
    assert synced == [tmp_path]


async def test_an_action_stands_between_two_lines(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    async with log.performing(OPS, "10.0.0.1", "dlq.replay", "stream=logs"):
        assert [line["result"] for line in lines(log.path)] == ["begun"]
    with pytest.raises(RuntimeError):
        async with log.performing(OPS, "10.0.0.1", "spool.repair"):
            raise RuntimeError("the disk is on fire")
    results = [(line["action"], line["result"]) for line in lines(log.path)]
    assert results == [
        ("dlq.replay", "begun"),
        ("dlq.replay", "done"),
        ("spool.repair", "begun"),
        ("spool.repair", "failed: RuntimeError"),
    ]


async def test_an_action_that_cannot_be_recorded_does_not_happen(tmp_path: Path) -> None:
    happened = False
    with pytest.raises(TryLater):
        async with log_in(tmp_path / "absent").performing(OPS, "10.0.0.1", "dlq.replay"):
            happened = True
    assert not happened


async def test_an_action_whose_end_cannot_be_recorded_has_happened(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    log = log_in(folder)
    with structlog.testing.capture_logs() as logs:
        async with log.performing(OPS, "10.0.0.1", "dlq.replay"):
            folder.rename(tmp_path / "moved")
    assert [entry["event"] for entry in logs] == ["admin_action", "audit_not_written"]
    assert [line["result"] for line in lines(tmp_path / "moved" / "audit.log")] == ["begun"]
