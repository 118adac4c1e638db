"""Records from clients through the spool to a receiver that refuses, is away, or comes back: none lost, none twice."""

import signal
from pathlib import Path

import anyio
import msgspec
import pytest
from structlog.testing import capture_logs

from agent.clock import NS, boot_ns, unix_ns
from agent.core.ports import ConfigError
from agent.core.requests import RecordReceipt, RefusedEvent, RequestEnded
from agent.delivery.deadletters import DeadLetter
from agent.sidecar.records.shipping import next_epoch, spool_folder
from agent.sidecar.settings import SidecarSettings
from agent.spool.inspect import items
from tests.support.agent import free_port
from tests.support.sidecar import NOWHERE, SMALL_SPOOL, Receiver, receiver, sidecar, sidecar_process
from tests.support.upstream import Wire, connect, post, repeat, until, upstream, whole


async def ask(port: int, times: int) -> None:
    async with connect(port) as client:
        for _ in range(times):
            await client.send(post(b'{"model":"m"}'))
            await client.answer()


@pytest.mark.parametrize("status", [503, 500, 429])
async def test_a_receiver_that_refuses_some_times_gets_everything_once(status: int) -> None:
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver(lambda attempt: status if attempt % 3 else None) as agent,
        sidecar(engine.url, agent_url=agent.url, ship_batch_events=7) as proxy,
    ):
        await ask(proxy.port, 20)
        await until(lambda: len(agent.accepted) == 20)
        assert [event.sequence for event in agent.accepted] == list(range(1, 21))
        assert {batch.sidecar for batch in agent.batches} == {"test"}
        assert len({batch.epoch for batch in agent.batches}) == 1
        assert proxy.shipping.delivery.state().retries > 0
        await until(lambda: not proxy.shipping.records.state().waiting)
        assert proxy.shipping.records.state().results == {"delivered": 20}


async def test_an_agent_that_is_away_and_comes_back() -> None:
    async with receiver() as gone:
        port = gone.port
    agent_url = f"http://127.0.0.1:{port}"
    async with upstream(repeat(whole(b"{}"))) as engine, sidecar(engine.url, agent_url=agent_url) as proxy:
        await ask(proxy.port, 5)
        await until(lambda: proxy.shipping.delivery.state().retries > 1)
        assert proxy.shipping.records.state().accepted == 5
        async with receiver(port=port) as agent:
            await until(lambda: not proxy.shipping.records.state().waiting)
            await ask(proxy.port, 5)
            await until(lambda: len(agent.accepted) == 10)
            assert [event.sequence for event in agent.accepted] == list(range(1, 11))


async def test_what_was_not_shipped_goes_out_after_a_restart_before_anything_newer(tmp_path: Path) -> None:
    async with upstream(repeat(whole(b"{}"))) as engine:
        async with sidecar(engine.url, agent_url=NOWHERE, spool_dir=tmp_path, ship_drain_seconds=0) as proxy:
            await ask(proxy.port, 3)
            first = proxy.shipping.queue.epoch
        async with receiver() as agent, sidecar(engine.url, agent_url=agent.url, spool_dir=tmp_path) as proxy:
            await ask(proxy.port, 2)
            second = proxy.shipping.queue.epoch
            await until(lambda: len(agent.accepted) == 5)
    assert first < second
    told = [(batch.epoch, event.sequence) for batch in agent.batches for event in batch.events]
    assert told == [(first, n) for n in range(1, 4)] + [(second, n) for n in range(1, 3)]


async def test_the_rest_is_shipped_at_the_end() -> None:
    async with upstream(repeat(whole(b"{}"))) as engine, receiver() as agent:
        async with sidecar(engine.url, agent_url=agent.url, ship_interval_seconds=60) as proxy:
            await ask(proxy.port, 3)
            assert agent.attempts == 0
        assert len(agent.accepted) == 3


async def test_a_batch_is_cut_down_when_it_is_too_large() -> None:
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver(lambda attempt: 413 if attempt < 3 else None) as agent,
        sidecar(engine.url, agent_url=agent.url, ship_interval_seconds=0.3) as proxy,
    ):
        await ask(proxy.port, 8)
        await until(lambda: len(agent.accepted) == 8)
        assert [event.sequence for event in agent.accepted] == list(range(1, 9))
        assert max(len(batch.events) for batch in agent.batches) <= 2


async def test_a_sidecar_with_an_open_request_is_heard_although_nothing_happens() -> None:
    go_on = anyio.Event()

    async def script(wire: Wire) -> None:
        await wire.message()
        await go_on.wait()
        await wire.send(whole(b"{}"))
        await wire.until_closed()

    async with (
        upstream(script) as engine,
        receiver() as agent,
        sidecar(engine.url, agent_url=agent.url, heartbeat_seconds=0.05) as proxy,
        connect(proxy.port) as client,
    ):
        await client.send(post(b"{}"))
        await until(lambda: len([batch for batch in agent.batches if not batch.events]) >= 2)
        go_on.set()
        await client.answer()
        await until(lambda: len(agent.accepted) == 2)
        assert proxy.shipping.queue.open == 0


async def test_refused_events_become_dead_letters_and_can_be_replayed_or_discarded() -> None:
    refuses = True

    def answer(batch_events: int) -> RecordReceipt:
        refused = tuple(RefusedEvent(index=i, kind="value", reason="not today") for i in range(batch_events))
        return RecordReceipt(accepted_through=1, refused=refused if refuses else ())

    agent = Receiver(receipt=answer)
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver(state=agent),
        sidecar(engine.url, agent_url=agent.url, ship_drain_seconds=0) as proxy,
    ):
        await ask(proxy.port, 4)
        await until(lambda: proxy.shipping.records.state().results.get("dead") == 4)
        assert proxy.shipping.dead_letters.state().waiting == 4
        refuses = False
        assert await proxy.shipping.discard([2]) == 1
        assert await proxy.shipping.replay([2, 3]) == 1
        assert await proxy.shipping.replay(None) == 2
        assert await proxy.shipping.replay(None) == 0
        await until(lambda: not proxy.shipping.records.state().waiting)
        records, dead = proxy.shipping.records.state(), proxy.shipping.dead_letters.state()
    assert records.results == {"dead": 4, "delivered": 3}
    assert (records.accepted, records.waiting) == (7, 0)
    assert dead.results == {"dropped:discarded": 1, "delivered": 3}


async def test_a_letter_that_cannot_be_read_stays_and_the_others_go() -> None:
    async with sidecar("http://127.0.0.1:9") as proxy:
        dead, good = proxy.shipping.dead_letters, letter_of("records")
        await dead.append([b"no letter", good, letter_of("logs")])
        assert await proxy.shipping.replay(None) == 1
        assert dead.state().waiting == 2
        assert await proxy.shipping.discard(None) == 2


def letter_of(stream: str) -> bytes:
    letter = DeadLetter(stream=stream, destination="agent", reason="r", at_ns=1, sequence=1, item=b"x")
    return msgspec.msgpack.encode(letter)


def test_each_start_has_a_higher_epoch_whatever_the_clock_says(tmp_path: Path) -> None:
    (tmp_path / "epoch").write_text(f"{1 << 61}\n")  # a wall clock that was far ahead
    assert [next_epoch(tmp_path), next_epoch(tmp_path)] == [(1 << 61) + 1, (1 << 61) + 2]


@pytest.mark.parametrize("content", [b"", b"yesterday", b"\xff\x00"])
def test_an_epoch_file_that_is_none_does_not_stop_the_sidecar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "epoch").write_bytes(content)
    before = unix_ns()
    assert before <= next_epoch(tmp_path) <= unix_ns()
    assert int((tmp_path / "epoch").read_text()) >= before


def test_two_sidecars_of_a_node_have_two_folders() -> None:
    folders = {spool_folder(SidecarSettings(listen=f"127.0.0.1:{port}")) for port in (9480, 9490)}
    assert len(folders) == 2


async def test_a_second_sidecar_on_the_same_folder_is_refused_by_name(tmp_path: Path) -> None:
    async with sidecar("http://127.0.0.1:9", spool_dir=tmp_path):
        with pytest.raises(ConfigError, match=r"sidecar.spool.*in use by another process"):
            async with sidecar("http://127.0.0.1:9", spool_dir=tmp_path):
                pass


async def test_a_folder_that_cannot_be_used_ends_the_process_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    async with sidecar_process(
        listen="127.0.0.1:0", admin_listen="127.0.0.1:0", spool_dir=tmp_path / "file"
    ) as process:
        assert await process.ended() == 2
    assert str(tmp_path / "file") in process.said
    assert "Traceback" not in process.said


async def test_killed_with_records_in_the_spool_it_ships_them_when_it_is_back(tmp_path: Path) -> None:
    port = free_port()
    given = {"listen": f"127.0.0.1:{port}", "admin_listen": "127.0.0.1:0", "spool_dir": tmp_path, "name": "killed"}
    async with upstream(repeat(whole(b"{}"))) as engine, receiver() as agent:
        async with sidecar_process(upstream=engine.url, agent_url=NOWHERE, **given) as process:
            await process.until_it_says("sidecar_listening")
            await ask(port, 10)
            await process.until_it_says("destination_unreachable")  # they are on the disk, and somebody has read them
            await anyio.to_thread.run_sync(_wait_for_spooled, tmp_path)
            process.process.send_signal(signal.SIGKILL)
            await process.process.wait()
        async with sidecar_process(upstream=engine.url, agent_url=agent.url, **given) as process:
            await until(lambda: sum(isinstance(event, RequestEnded) for event in agent.accepted) == 10)
            process.process.send_signal(signal.SIGTERM)
            assert await process.ended() == 0


def _wait_for_spooled(folder: Path) -> None:
    """Until ten events can be read from the files: what a reader without the lock sees is on the disk."""
    until_ns = boot_ns() + 20 * NS
    while len(list(items(folder / "records"))) < 10:
        assert boot_ns() < until_ns


async def test_events_that_find_no_room_are_told_once(tmp_path: Path) -> None:
    full = SMALL_SPOOL | {"min_free_bytes": 1 << 60}
    with capture_logs() as logs:
        async with (
            upstream(repeat(whole(b"{}"))) as engine,
            sidecar(engine.url, agent_url=NOWHERE, spool_dir=tmp_path, spool=full, ship_drain_seconds=0) as proxy,
        ):
            await ask(proxy.port, 2)
            await until(lambda: proxy.shipping.records.blocked != "")
            await ask(proxy.port, 3)
            assert proxy.shipping.queue.dropped == {"start": 0, "progress": 0, "end": 0}  # ends fit into memory
    said = [entry["event"] for entry in logs]
    assert said.count("spool_blocked") == 1
    assert "stay free" in next(entry["reason"] for entry in logs if entry["event"] == "spool_blocked")
    assert "spool_items_not_written" in said


async def test_the_token_goes_along_and_follows_its_file(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first-token-of-sixteen\n")
    async with (
        upstream(repeat(whole(b"{}"))) as engine,
        receiver() as agent,
        sidecar(engine.url, agent_url=agent.url, agent_token_file=token) as proxy,
    ):
        await ask(proxy.port, 1)
        await until(lambda: len(agent.accepted) == 1)
        assert agent.authorizations == {"Bearer first-token-of-sixteen"}
        token.write_text("second-token-of-sixteen\n")

        async def until_second() -> None:
            while "Bearer second-token-of-sixteen" not in agent.authorizations:
                await ask(proxy.port, 1)

        with anyio.fail_after(10):
            await until_second()


def test_the_batch_on_the_wire_is_what_the_agent_reads() -> None:
    from agent.core.requests import RecordBatch
    from agent.sidecar.records.ship import _Outgoing

    assert _Outgoing.__struct_fields__ == RecordBatch.__struct_fields__
    assert msgspec.structs.fields(_Outgoing)[0].name == "sidecar"
