import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.support.command_line import engineroom
from tests.support.spool_folders import flip, make_stream, read_by_owner, writer


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    make_stream(
        folder / "records", 120, settled=[*range(1, 11), 20], saves=2, at_ns=lambda _: 1_795_440_000_000_000_000
    )
    make_stream(folder / "dead-letters", 0)
    (folder / "lock").touch()
    (folder / "epoch").write_text("1\n")
    return folder


def test_stat_for_people(spool: Path) -> None:
    shown = engineroom("spool", "stat", spool, columns=80)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert lines[0] == f"{spool}: no process has it open"
    assert all(len(line) <= 80 for line in lines[1:])
    assert lines[3].split() == ["stream", "accepted", "waiting", "oldest", "used", "segments", "+", "spare"]
    assert lines[4].split()[:4] == ["dead-letters", "0", "0", "-"]
    assert lines[5].split()[:3] == ["records", "120", "109"]
    assert "records: settled delivered 11" in lines


def test_stat_for_programs(spool: Path) -> None:
    shown = json.loads(engineroom("spool", "stat", spool, "--json").out)
    assert shown["process"] is None
    assert [(one["name"], one["accepted"], one["waiting"]) for one in shown["streams"]] == [
        ("dead-letters", 0, 0),
        ("records", 120, 109),
    ]
    assert shown["streams"][1]["oldest_at_ns"] == 1_795_440_000_000_000_000


def test_stat_finds_the_sidecars_folder_and_says_why_nothing_can_be_written(spool: Path, tmp_path: Path) -> None:
    config = tmp_path / "engineroom.yaml"
    config.write_text("sidecar: {spool_dir: spool, spool: {min_free_bytes: 1000000000000000}}\n")
    for file in (spool / "records").glob("*.seg"):
        if file.name > "000003.seg":
            file.unlink()
    shown = engineroom("spool", "stat", "--config", config)
    assert shown.status == 0
    assert str(spool) in shown.out
    assert "nothing can be written: 1000000000000000 bytes must stay free (sidecar.spool.min_free_bytes)" in shown.out


def test_a_sound_spool_checks_as_ok(spool: Path) -> None:
    shown = engineroom("spool", "check", spool)
    assert (shown.status, shown.err) == (0, "")
    assert "records: ok; 120 items in 24 frames" in shown.out


def test_check_tells_each_damage_and_repair_mends_it(spool: Path) -> None:
    records = spool / "records"
    flip(records / "000001.seg", 64 + 200)
    flip(records / "marks", 10)
    (records / "notes.txt").touch()
    before = read_by_owner(records)

    shown = engineroom("spool", "check", spool)
    assert shown.status == 1
    assert "records: 3 wrong" in shown.out
    assert "  damaged: 000001.seg: 568 bytes at 64 are damaged: items 36 to 40" in shown.out
    assert "  foreign: notes.txt: no file of a spool" in shown.out
    assert "  marks: one of the two copies is damaged" in shown.out
    assert "engineroom spool repair" in shown.out
    told = json.loads(engineroom("spool", "check", spool, "--json").out)
    assert (told["ok"], [problem["kind"] for problem in told["streams"][1]["problems"]]) == (
        False,
        ["damaged", "foreign", "marks"],
    )

    planned = engineroom("spool", "repair", spool, "--dry-run")
    assert planned.status == 0
    assert "would be done, 5 items lost" in planned.out
    assert engineroom("spool", "check", spool).status == 1

    mended = engineroom("spool", "repair", spool)
    assert mended.status == 0
    assert "steps done, 5 items lost" in mended.out
    assert "moved notes.txt to quarantine/notes.txt" in mended.out
    assert engineroom("spool", "check", spool).status == 0
    assert read_by_owner(records) == before
    assert "nothing to mend" in engineroom("spool", "repair", spool).out


def test_repair_leaves_an_owner_alone(spool: Path) -> None:
    flip(spool / "records" / "000001.seg", 264)
    with (spool / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        refused = engineroom("spool", "repair", spool)
    assert refused.status == 2
    assert f"is open in process {os.getpid()}, which needs no repair to go on" in refused.err


def test_repair_leaves_another_users_folder_alone(spool: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    os.chown(spool, 65534, 65534)
    refused = engineroom("spool", "repair", spool)
    assert refused.status == 2
    assert "belongs to user nobody; do this as that user" in refused.err


@pytest.mark.parametrize("what", ["stat", "check", "repair"])
def test_what_is_no_spool_is_told(what: str, tmp_path: Path, spool: Path) -> None:
    missing = engineroom("spool", what, tmp_path / "nowhere")
    assert (missing.status, missing.err) == (
        2,
        f"engineroom: FOLDER: {tmp_path}/nowhere cannot be read: No such file or directory\n",
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "is no spool: it has no streams" in engineroom("spool", what, empty).err
    inner = engineroom("spool", what, spool / "records")
    assert inner.status == 2
    assert "is one stream of a spool; name the folder above it" in inner.err


def test_all_of_it_beside_a_process_that_writes(tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        for _ in range(3):
            shown = engineroom("spool", "stat", tmp_path)
            assert (shown.status, shown.err) == (0, "")
            assert f"open in process {process.pid}" in shown.out
            checked = engineroom("spool", "check", tmp_path)
            assert (checked.status, checked.err) == (0, "")
        assert engineroom("spool", "repair", tmp_path).status == 2
        assert process.poll() is None
    assert engineroom("spool", "repair", tmp_path).status == 0


@pytest.mark.parametrize("what", ["stat", "check", "repair"])
def test_every_part_explains_itself(what: str) -> None:
    shown = engineroom("spool", what, "--help")
    assert shown.status == 0
    assert len(shown.out) > 300
