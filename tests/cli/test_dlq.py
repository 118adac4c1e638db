import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.dlq import decode
from agent.spool.inspect import items, stat
from tests.support.command_line import engineroom, engineroom_beside, engineroom_process
from tests.support.sidecar import NOWHERE, SMALL_SPOOL, sidecar
from tests.support.spool_folders import dead_letter, flip, make_stream

KINDS = [b'{"a": [1, 2]}', msgspec.msgpack.encode([17, {"kind": "end"}]), b"plain \x1b[31mtext", bytes(range(200, 240))]
EVENT = msgspec.msgpack.encode([7, "sidecar-a", {"type": "progress", "sequence": 1, "id": "r", "at_ns": 1}])
TOKEN = "a-token-of-the-administrator"


def dead_item(number: int) -> bytes:
    return KINDS[number % len(KINDS)]


def letter(number: int) -> bytes:
    return dead_letter(number, dead_item(number))


def make_spool(folder: Path, letters: int = 8, settled: Sequence[int] = (2,)) -> Path:
    make_stream(folder / "records", 3, settled=[1, 2, 3])
    make_stream(folder / "dead-letters", letters, settled=settled, data=letter)
    (folder / "lock").touch()
    return folder


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return make_spool(tmp_path / "spool")


def waiting(spool: Path, stream: str) -> list[bytes]:
    return [one.data for one in items(spool / stream)]


# list and show


def test_the_list_is_readable_on_a_narrow_terminal(spool: Path) -> None:
    shown = engineroom("dlq", "list", spool, "--limit", 3, columns=80)
    assert (shown.status, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert [line.split()[0] for line in lines[1:7:2]] == ["1", "3", "4"]  # 2 is settled
    assert lines[1] == f"     1  2026-11-23 13:20:01Z  {len(dead_item(1))} B  records to agent"
    assert lines[2].strip().startswith("status 400: the schema of item 1 is unknown; update")
    assert lines[-1] == "and 4 more; --limit 7 shows all"


def test_in_a_pipe_nothing_is_cut(spool: Path) -> None:
    assert "update the agent " * 4 in engineroom("dlq", "list", spool).out


def test_the_list_for_programs(spool: Path) -> None:
    shown = json.loads(engineroom("dlq", "list", spool, "--json", "--limit", 1).out)
    assert shown["more"] == 6
    (row,) = shown["letters"]
    assert (row["number"], row["stream"], row["sequence"], row["bytes"]) == (1, "records", 1001, len(dead_item(1)))


def test_the_list_of_one_stream(spool: Path) -> None:
    assert engineroom("dlq", "list", spool, "--stream", "spans").out == "no dead letters of stream spans\n"


@pytest.mark.parametrize("limit", ["0", "-1", "x"])
def test_a_limit_that_is_none_is_refused(spool: Path, limit: str) -> None:
    refused = engineroom("dlq", "list", spool, f"--limit={limit}")
    assert refused.status == 2
    assert "expected a number of letters, 1 or more" in refused.err


def test_a_spool_without_letters(tmp_path: Path) -> None:
    make_stream(tmp_path / "records", 3)
    assert engineroom("dlq", "list", tmp_path).out == "no dead letters\n"


@pytest.mark.parametrize(
    ("number", "kind", "shown"),
    [
        (4, "JSON", '"a": [\n    1,'),
        (1, "msgpack", '"kind": "end"'),
        (6, "not text", "00000000  "),
        (3, "not text", "00000000  c8 c9"),
    ],
)
def test_an_item_is_shown_as_what_it_is(spool: Path, number: int, kind: str, shown: str) -> None:
    told = engineroom("dlq", "show", number, "--folder", spool)
    assert told.status == 0
    assert f"item         {len(dead_item(number))} bytes, {kind}\n" in told.out
    assert f"stream       records, item {1000 + number}\n" in told.out
    assert shown in told.out
    assert engineroom("dlq", "show", number, "--folder", spool, "--raw").raw == dead_item(number)


def test_a_letter_that_is_not_there_is_told(spool: Path) -> None:
    for number in (2, 99):
        told = engineroom("dlq", "show", number, "--folder", spool)
        assert (told.status, told.out) == (1, "")
        assert f"no dead letter has the number {number}" in told.err


@given(item=st.binary(max_size=300))
def test_whatever_the_bytes_are_they_are_shown_without_control_characters(item: bytes) -> None:
    _, text = decode(item)
    assert all(char.isprintable() or char == "\n" for char in text)


def test_an_item_nested_without_end_is_shown_all_the_same() -> None:
    assert decode(b"[" * 100_000)[0] == "text"
    assert decode(b"\x91" * 100_000)[0] == "not text"


# replay and discard, with nobody there


def test_replay_gives_the_items_back_as_they_were(spool: Path) -> None:
    done = engineroom_process("dlq", "replay", 3, 1, "--folder", spool)
    assert (done.status, done.out, done.err) == (0, "2 replayed\n", "")
    assert waiting(spool, "records") == [dead_item(1), dead_item(3)]
    assert stat(spool / "dead-letters").results == {"delivered": 3}
    assert engineroom_process("dlq", "replay", "--all", "--folder", spool).out == "5 replayed\n"
    assert waiting(spool, "dead-letters") == []
    assert len(waiting(spool, "records")) == 7
    assert engineroom_process("dlq", "replay", "--all", "--folder", spool).out == "0 replayed\n"
    assert engineroom("spool", "check", spool).status == 0


def test_a_number_that_is_not_there_leaves_all_as_it_was(spool: Path) -> None:
    told = engineroom_process("dlq", "replay", 1, 2, "--folder", spool)
    assert told.status == 1
    assert "no dead letter has the number 2" in told.err
    assert "nothing was changed" in told.err
    assert len(waiting(spool, "dead-letters")) == 7


def test_discard_wants_a_yes(spool: Path) -> None:
    assert engineroom_process("dlq", "discard", 1, "--folder", spool).status == 2
    assert len(waiting(spool, "dead-letters")) == 7
    done = engineroom_process("dlq", "discard", 1, "--yes", "--folder", spool)
    assert (done.status, done.out) == (0, "1 discarded\n")
    assert stat(spool / "dead-letters").results == {"delivered": 1, "dropped:discarded": 1}
    assert waiting(spool, "records") == []


@pytest.mark.parametrize("which", [[], ["--all", "1"]])
def test_which_letters_must_be_said(spool: Path, which: list[str]) -> None:
    refused = engineroom_process("dlq", "replay", *which, "--folder", spool)
    assert refused.status == 2
    assert "or --all; not both" in refused.err


def test_a_letter_that_cannot_be_read_stays(tmp_path: Path) -> None:
    make_stream(tmp_path / "records", 1)
    make_stream(tmp_path / "dead-letters", 2, data=lambda number: letter(1) if number == 1 else b"no letter")
    done = engineroom_process("dlq", "replay", "--all", "--folder", tmp_path)
    assert (done.status, done.out) == (1, "1 replayed\n")
    assert "1 letters cannot be read and stay" in done.err
    assert waiting(tmp_path, "dead-letters") == [b"no letter"]
    assert engineroom("dlq", "show", 2, "--raw", "--folder", tmp_path).raw == b"no letter"


@pytest.mark.parametrize("stream", ["spans", "../records", "dead-letters"])
def test_a_letter_of_a_stream_that_is_not_there_stays(tmp_path: Path, stream: str) -> None:
    folder = tmp_path / "spool"
    make_stream(folder / "records", 1)
    make_stream(folder / "dead-letters", 1, data=lambda number: dead_letter(number, b"{}", stream))
    refused = engineroom_process("dlq", "replay", "--all", "--folder", folder)
    assert refused.status == 1
    assert f"engineroom: dead letter 1 is of stream {stream!r}, which this spool does not have" in refused.err
    assert "Traceback" not in refused.err
    assert len(waiting(folder, "dead-letters")) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spool"]


def test_damaged_letters_do_not_hide_the_others(spool: Path) -> None:
    file = spool / "dead-letters" / "000000.seg"
    flip(file, 200)
    shown = json.loads(engineroom("dlq", "list", spool, "--json").out)
    assert [row["number"] for row in shown["letters"]] == [6, 7, 8]


# Through a sidecar that runs


async def test_a_sidecar_that_runs_is_asked(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    make_stream(spool / "records", 3, settled=[1, 2, 3])
    make_stream(spool / "dead-letters", 8, settled=[2], data=lambda number: dead_letter(number, EVENT))
    config = tmp_path / "engineroom.yaml"
    async with sidecar(NOWHERE, agent_url=NOWHERE, spool_dir=spool, ship_drain_seconds=0.0) as proxy:
        config.write_text(f"sidecar: {{spool_dir: spool, admin_listen: '127.0.0.1:{proxy.admin_port}'}}\n")
        listed = await engineroom_beside("dlq", "list", "--config", config, "--json")
        assert [row["number"] for row in json.loads(listed.out)["letters"]] == [1, 3, 4, 5, 6, 7, 8]
        done = await engineroom_beside("dlq", "replay", 1, 5, "--config", config)
        assert (done.status, done.out, done.err) == (0, "2 replayed, by the process that has it open\n", "")
        assert proxy.shipping.records.state().accepted == 5
        done = await engineroom_beside("dlq", "discard", 3, "--yes", "--config", config)
        assert done.out == "1 discarded, by the process that has it open\n"
        done = await engineroom_beside("dlq", "replay", "--all", "--config", config)
        assert done.out == "4 replayed, by the process that has it open\n"
        results = proxy.shipping.dead_letters.state().results
    assert results == {"delivered": 7, "dropped:discarded": 1}


async def test_a_token_of_the_configuration_opens_the_door(spool: Path, tmp_path: Path) -> None:
    (tmp_path / "admin").write_text(TOKEN)
    tokens = [{"name": "admin", "file": tmp_path / "admin", "scopes": ["admin"]}]
    common = {"agent_url": NOWHERE, "spool_dir": spool, "ship_drain_seconds": 0.0}
    async with sidecar(NOWHERE, admin_auth={"tokens": tokens}, **common) as proxy:
        url = f"http://127.0.0.1:{proxy.admin_port}"
        refused = await engineroom_beside("dlq", "replay", 1, "--folder", spool, "--url", url)
        assert refused.status == 2
        assert "--token-file: http://127.0.0.1" in refused.err
        assert "it wants a token" in refused.err
        config = tmp_path / "engineroom.yaml"
        config.write_text(
            f"sidecar: {{spool_dir: spool, admin_listen: '127.0.0.1:{proxy.admin_port}', "
            "admin_auth: {tokens: [{name: a, file: admin, scopes: [admin]}]}}\n"
        )
        done = await engineroom_beside("dlq", "replay", 1, "--config", config)
        assert (done.status, done.out) == (0, "1 replayed, by the process that has it open\n")


async def test_nobody_at_the_address(spool: Path) -> None:
    async with sidecar(NOWHERE, agent_url=NOWHERE, spool_dir=spool, ship_drain_seconds=0.0):
        told = await engineroom_beside("dlq", "replay", 1, "--folder", spool, "--url", NOWHERE)
    assert told.status == 1
    assert "no connection: " in told.err
    assert "or stop it and do this again" in told.err


def test_there_is_room_for_a_replay_or_it_says_why_not(spool: Path, tmp_path: Path) -> None:
    config = tmp_path / "engineroom.yaml"
    config.write_text(f"sidecar: {{spool: {{max_bytes: {SMALL_SPOOL['max_bytes']}, segment_bytes: 1048576}}}}\n")
    refused = engineroom_process("dlq", "replay", 1, "--folder", spool, "--config", config)
    assert refused.status == 2
    assert "sidecar.spool.max_bytes" in refused.err
    assert len(waiting(spool, "dead-letters")) == 7


@pytest.mark.parametrize("what", ["list", "show", "replay", "discard"])
def test_every_part_explains_itself(what: str) -> None:
    shown = engineroom("dlq", what, "--help")
    assert shown.status == 0
    assert len(shown.out) > 300
