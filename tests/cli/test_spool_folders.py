"""`spool` and `dlq` where a sidecar has, or had, several workers: a spool in a folder for each."""

import json
from pathlib import Path

import msgspec
import pytest

from agent.cli.spool_folders import find_folders
from agent.core.ports import ConfigError
from agent.spool.inspect import items
from tests.support.command_line import engineroom, engineroom_beside, engineroom_process
from tests.support.sidecar import NOWHERE, sidecar
from tests.support.spool_folders import dead_letter, flip, make_stream
from tests.support.upstream import until

EVENT = msgspec.msgpack.encode([7, "s#0", {"type": "progress", "sequence": 1, "id": "r", "at_ns": 1}])


def make_spool(folder: Path, letters: int) -> None:
    make_stream(folder / "records", 12, settled=[12], data=lambda _: EVENT)
    make_stream(folder / "dead-letters", letters, data=lambda number: dead_letter(number, EVENT))
    (folder / "lock").touch()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two workers with 3 and 5 letters."""
    for index, letters in enumerate((3, 5)):
        make_spool(tmp_path / f"base/worker-{index}", letters)
    (tmp_path / "base/audit.jsonl").touch()
    return tmp_path / "base"


@pytest.fixture
def config(base: Path) -> Path:
    file = base.parent / "engineroom.yaml"
    file.write_text("sidecar: {spool_dir: base, workers: 2}\n")
    return file


def left(folder: Path) -> list[int]:
    return [one.sequence for one in items(folder / "dead-letters")]


def test_which_folders_are_meant(base: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def names(given: Path | None = None) -> list[tuple[str, bool]]:
        return [(one.name, one.of_several) for one in find_folders(given, config)]

    both = [("worker-0", True), ("worker-1", True)]
    assert names() == names(base) == both
    assert names(Path("worker-1")) == names(base / "worker-1") == [("worker-1", True)]
    make_spool(base / "worker-10", 0)
    assert names() == [*both, ("worker-10", True)]  # by number
    make_spool(base, 0)  # of the single process that was there before
    assert names()[0] == ("base", True)
    assert names(Path("base")) == [("base", True)]
    monkeypatch.chdir(base)  # a folder that is there goes before a name
    assert find_folders(Path("worker-1"), config)[0].path == Path("worker-1")


def test_the_spool_of_one_process_is_no_part_of_several(tmp_path: Path) -> None:
    make_spool(tmp_path / "one", 0)
    assert [one.of_several for one in find_folders(tmp_path / "one", None)] == [False]


def test_a_name_that_nobody_has_is_told(config: Path) -> None:
    with pytest.raises(ConfigError, match="worker-7 cannot be read: No such file or directory"):
        find_folders(Path("worker-7"), config)


def test_stat_and_check_tell_each(base: Path, config: Path) -> None:
    shown = engineroom("spool", "stat", "--config", config)
    assert shown.status == 0
    assert shown.out.count(": no process has it open") == 2
    told = json.loads(engineroom("spool", "stat", "--config", config, "--json").out)["folders"]
    assert [one["folder"] for one in told] == [str(base / "worker-0"), str(base / "worker-1")]
    alone = json.loads(engineroom("spool", "stat", "worker-1", "--config", config, "--json").out)
    disk = {"free_bytes": told[1]["free_bytes"]}  # others write to it meanwhile
    assert alone | disk == told[1]
    sound = engineroom("spool", "check", "--config", config)
    assert sound.status == 0
    assert "worker-1/records: ok; 12 items" in sound.out
    flip(min((base / "worker-1/records").glob("*.seg")), 64 + 100)
    damaged = engineroom("spool", "check", "--config", config, "--json")
    assert damaged.status == 1
    assert [one["ok"] for one in json.loads(damaged.out)["folders"]] == [True, False]


def test_the_bytes_of_the_spool_are_those_of_its_worker(base: Path, config: Path) -> None:
    limits = "{min_free_bytes: 0, segment_bytes: 65536, max_bytes: 1048576}"
    config.write_text(f"sidecar: {{spool_dir: base, workers: 8, spool: {limits}}}\n")
    make_stream(base / "worker-0/records", 900, per_frame=30)
    assert (
        "the spool has all of its 131072 bytes (sidecar.spool.max_bytes)"
        in engineroom("spool", "stat", "worker-0", "--config", config).out
    )


def test_one_is_mended_at_a_time(base: Path, config: Path) -> None:
    refused = engineroom("spool", "repair", "--config", config)
    assert refused.status == 2
    assert refused.err == (
        "engineroom: FOLDER: one spool is mended at a time; say which is meant, such as worker-1. "
        "There are worker-0, worker-1\n"
    )
    assert engineroom("spool", "repair", "worker-1", "--config", config).status == 0


def test_the_letters_of_each_folder_are_listed_under_its_name(config: Path) -> None:
    lines = engineroom("dlq", "list", "--config", config, "--limit", 4).out.splitlines()
    assert [line for line in lines if line.startswith("worker-")] == ["worker-0:", "worker-1:"]
    assert lines[-1] == "and 4 more; --limit 8 shows all"
    told = json.loads(engineroom("dlq", "list", "--config", config, "--json").out)
    assert [(row["folder"], row["number"]) for row in told["letters"]] == [
        *(("worker-0", number) for number in (1, 2, 3)),
        *(("worker-1", number) for number in (1, 2, 3, 4, 5)),
    ]
    assert len(json.loads(engineroom("dlq", "list", "worker-0", "--config", config, "--json").out)["letters"]) == 3


def test_a_letter_that_only_one_folder_has_is_found(config: Path) -> None:
    assert "letter       5 of worker-1, written" in engineroom("dlq", "show", 5, "--config", config).out
    several = engineroom("dlq", "show", 2, "--config", config)
    assert several.status == 2
    assert "letter 2 is not one: each worker numbers its own; say which is meant, such as worker-1" in several.err
    assert "letter       2 of worker-0" in engineroom("dlq", "show", 2, "--folder", "worker-0", "--config", config).out


def test_letters_are_changed_in_one_folder_or_in_all(base: Path, config: Path) -> None:
    refused = engineroom_process("dlq", "replay", 5, "--config", config)
    assert refused.status == 2
    assert "--folder: each worker numbers its own letters; say which is meant, such as worker-1" in refused.err
    done = engineroom_process("dlq", "replay", 2, 5, "--folder", "worker-1", "--config", config)
    assert (done.status, done.out) == (0, "2 replayed\n")
    assert (left(base / "worker-0"), left(base / "worker-1")) == ([1, 2, 3], [1, 3, 4])
    done = engineroom_process("dlq", "discard", "--all", "--yes", "--config", config)
    assert (done.status, done.out) == (0, "worker-0: 3 discarded\nworker-1: 3 discarded\n")
    assert left(base / "worker-0") == left(base / "worker-1") == []


async def test_a_process_that_has_them_open_is_asked_about_one_or_all(base: Path) -> None:
    """One process after two workers: it has the folders of both open, and one of its own."""
    config = base.parent / "engineroom.yaml"
    given = {"agent_url": NOWHERE, "ship_drain_seconds": 0.0, "spool_dir": base, "name": "s"}
    async with sidecar(NOWHERE, **given) as proxy:
        await until(lambda: len(proxy.running.orphans.open) == 2)
        config.write_text(f"sidecar: {{spool_dir: base, admin_listen: '127.0.0.1:{proxy.admin_port}'}}\n")
        done = await engineroom_beside("dlq", "replay", 2, 5, "--folder", "worker-1", "--config", config)
        assert (done.status, done.out, done.err) == (0, "2 replayed, by the process that has it open\n", "")
        done = await engineroom_beside("dlq", "discard", "--all", "--yes", "--config", config)
        assert (done.status, done.out, done.err) == (0, "6 discarded, by the process that has it open\n", "")
        ships = proxy.running.orphans.open.values()
        assert [ship.dead_letters.state().waiting for ship in ships] == [0, 0]
        shown = await engineroom_beside("spool", "stat", "--config", config)
        assert shown.out.count("open in process") == 3
