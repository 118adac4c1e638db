"""The migrations make exactly the tables that the code knows."""

import random
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select

from agent.ledger.rollup import read_eras
from agent.ledger.schema import HEAD, KNOWN, connect, migrate, upgrade
from agent.ledger.tables import DAY, HOUR, MINUTE, entries, metadata, node_state, places, requests, sidecars
from tests.support.ledger import opened
from tests.support.money import NS


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__code__.co_filename).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    assert script.get_current_head() == HEAD
    assert {revision.revision for revision in script.walk_revisions()} == set(KNOWN)


@pytest.mark.parametrize("make", ["new", "migrated"])
def test_migrations_and_tables_agree(tmp_path: Path, make: str) -> None:
    engine = connect(tmp_path / "ledger.sqlite")
    if make == "migrated":
        upgrade(engine)  # every migration from the first on
    migrate(engine, tmp_path / "ledger.sqlite")
    migrate(engine, tmp_path / "ledger.sqlite")  # again: nothing to do
    with engine.begin() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == HEAD
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_a_ledger_of_the_first_version_keeps_its_rows(tmp_path: Path) -> None:
    engine = connect(tmp_path / "ledger.sqlite")
    upgrade(engine, "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO requests (id, sidecar, epoch, upstream, engine, started_ns, gpu_ns, nano, seen_ns, unpriced,"
            " settled) VALUES ('a', 's', 7, 'u', 'u', 1, 2, 3, 4, 0, 0)"
        )
        connection.exec_driver_sql("INSERT INTO sidecars VALUES ('s', 7, 41, 99), ('s', 8, 3, 100)")
    migrate(engine, tmp_path / "ledger.sqlite")
    with engine.begin() as connection:
        (request,) = connection.execute(select(requests)).all()
        marks = [tuple(row) for row in connection.execute(select(sidecars))]
    assert (request.id, request.epoch, request.nano, request.sender) == ("a", 7, 3, "")
    assert (request.seen_by, request.attempt, request.work_ns) == ("sidecar", 0, 0)
    assert marks == [("s", 7, "", 41, None, 99), ("s", 8, "", 3, None, 100)]
    engine.dispose()


M0 = 30_000_000  # Unix minute: 2027-01-15 08:00 UTC
MINUTE_NS = 60 * NS
FROM_NS = M0 * MINUTE_NS
MINUTES = 2 * 24 * 60 + 100


def fill_old(connection: Connection, version: str) -> None:
    """Two days and more of two GPUs, one of which changed its currency, as a ledger of `version` had it."""
    run, chance = connection.exec_driver_sql, random.Random(version)
    through = FROM_NS + MINUTES * MINUTE_NS + 7 * NS
    run("INSERT INTO node_state VALUES (1, 'node-a', 'boot', 1, 2, 99, ?)", (through,))
    later = FROM_NS + 1000 * MINUTE_NS
    accounts_of = [("GPU-0", FROM_NS, "CNY"), ("GPU-1", FROM_NS, None), ("GPU-1", later, "CNY")]
    for gpu, at, currency in accounts_of:
        run("INSERT INTO accounts VALUES (?, ?, 'H100', ?, ?, 1)", (gpu, at, currency, through))
    kinds = [("request", "vllm", "llama", tenant, outcome) for tenant in ("acme", "") for outcome in ("ok", "error")]
    kinds += [
        ("loaded_idle", "vllm", "llama", "", ""),
        ("gap", "", "", "", ""),
        ("request", "far", "", "", "in_flight"),
    ]
    rows = []
    for minute in range(0, MINUTES + 1, 7):
        for gpu, at, _ in accounts_of:
            for kind in chance.sample(kinds, 3):
                if at <= FROM_NS + minute * MINUTE_NS:
                    amounts = [
                        chance.randrange(10**10),
                        chance.randrange(10**7),
                        *(chance.randrange(99) for _ in "abc"),
                    ]
                    rows.append((FROM_NS + minute * MINUTE_NS, gpu, at, *kind, *amounts))
    rows.append((FROM_NS, "GPU-0", FROM_NS, "request", "none", "", "", "in_flight", 0, 0, 0, 0, 0))  # taken back wholly
    names = ["bucket_ns", "gpu", "account_ns", "state", "engine", "model", "tenant", "outcome", "gpu_ns", "nano"]
    names += ["requests", "input_tokens", "output_tokens"]
    if version >= "0003":
        names += ["slot", "reason"]
        rows = [(*row, f"{row[1]}::0", "process") for row in rows]
    if version >= "0004":
        names += ["engine_group"]
        rows = [(*row, "group") for row in rows]
    run(f"INSERT INTO entries ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})", rows)
    told = "sidecar, epoch, upstream, engine, model, tenant, started_ns, first_token_ns, ended_ns, outcome"
    told += ", input_tokens, input_cached_tokens, output_tokens, progress_ns, progress_tokens, gpu_ns, nano, seen_ns"
    told += ", currency, unpriced, settled, id"
    start = FROM_NS + 1_500_000_000
    old = [
        ("s", 1, "u", "vllm", "llama", "acme", start, start + 1, start + NS, "ok", 5, None, 7, None, None, 11, 13, NS,
         "CNY", 0, 1, UUID7),
        ("s", 1, "u", "far", None, None, start, None, start + 5, "lost", None, None, None, None, None, 0, 0, 0,
         None, 0, 1, "odd id"),
        ("t", 2, "u", "other", "m", "zeta", start, None, start + NS, "error", 1, 2, 3, None, None, 17, 19, 23,
         "CNY", 1, 1, "r-3"),
        ("t", 2, "u", "vllm", "llama", None, start, None, None, None, None, None, None, start + 9, 4, 29, 31, 37,
         "CNY", 0, 0, "open"),
    ]  # fmt: skip
    run(f"INSERT INTO requests ({told}) VALUES ({', '.join('?' * 22)})", old)


UUID7 = "01a0a8f0-5c00-7abc-8def-0123456789ab"


@pytest.mark.parametrize("version", [one for one in KNOWN if one != HEAD])
def test_sums_of_every_released_version_are_the_same_in_each_grain(tmp_path: Path, version: str) -> None:
    path = tmp_path / "ledger.sqlite"
    engine = connect(path)
    upgrade(engine, version)
    names = ("gpu_ns", "nano", "requests", "input_tokens", "output_tokens")
    sums_of = ", ".join(f"sum({name})" for name in names)
    with engine.begin() as connection:
        fill_old(connection, version)
        old = connection.exec_driver_sql(
            f"SELECT gpu, account_ns, state, {sums_of} FROM entries GROUP BY 1, 2, 3"
        ).all()
    migrate(engine, path)
    with engine.begin() as connection:
        rolled = connection.execute(select(node_state.c.rolled_minute)).scalar_one()
        assert rolled == M0 + MINUTES
        for grain in (MINUTE, HOUR, DAY):
            e, p = entries.c, places.c
            whole = (e.grain == grain) | ((e.grain == MINUTE) & (e.minute >= rolled))
            sums = select(p.gpu, p.account_ns, p.state, *(func.sum(e[name]) for name in names)).where(whole)
            sums = sums.join_from(entries, places, e.place == p.id).group_by(p.gpu, p.account_ns, p.state)
            assert sorted(map(tuple, connection.execute(sums))) == sorted(map(tuple, old)), grain
        days = connection.execute(select(entries.c.minute).where(entries.c.grain == DAY).distinct()).scalars().all()
        assert sorted(days) == [M0 - 480, M0 - 480 + 1440, M0 - 480 + 2880]
        slots = {tuple(row) for row in connection.execute(select(places.c.slot, places.c.engine_group))}
        assert read_eras(connection).zones == ((0, "UTC"),)
        tables = set(inspect(connection).get_table_names())
    assert tables == {table.name for table in metadata.sorted_tables} | {"alembic_version"}
    whole_gpu = version < "0003"
    assert all(slot in ("", "GPU-0", "GPU-1") or not whole_gpu for slot, _ in slots)
    assert {group for _, group in slots} <= ({"", "group"} if version >= "0004" else {""})
    engine.dispose()


@pytest.mark.parametrize("version", [one for one in KNOWN if one != HEAD])
async def test_requests_of_every_released_version_are_kept(tmp_path: Path, version: str) -> None:
    path = tmp_path / "ledger.sqlite"
    engine = connect(path)
    upgrade(engine, version)
    with engine.begin() as connection:
        fill_old(connection, version)
    engine.dispose()
    async with await opened(path) as ledger:
        (live,) = ledger.opened.live
        assert (live.id, live.gpu_ns, live.nano, live.seen_ns, live.points) == ("open", 29, 31, 37, [(START + 9, 4)])
        assert ledger.opened.ended == 3
        found = {request: await ledger.request_cost(request) for request in (UUID7, "odd id", "r-3", "open")}
    first, second, third, fourth = found.values()
    assert first is not None
    assert second is not None
    assert third is not None
    assert fourth is not None
    assert (first.engine, first.model, first.tenant, first.outcome) == ("vllm", "llama", "acme", "ok")
    assert (first.started_at_ns, first.ended_at_ns) == (START, START + NS)
    assert (first.gpu_ns, first.cost_nano, first.currency) == (11, 13, "CNY")
    assert (first.input_tokens, first.input_cached_tokens, first.output_tokens) == (5, None, 7)
    assert (second.engine, second.model, second.tenant, second.outcome) == ("far", None, None, "lost")
    assert (second.gpu_ns, second.cost_nano, second.output_tokens) == (0, None, None)
    assert (third.engine, third.tenant, third.gpu_ns, third.cost_nano) == ("other", "zeta", 17, None)
    assert (fourth.settled, fourth.cost_nano, first.settled) == (False, 31, True)


START = FROM_NS + 1_500_000_000


def test_every_commit_is_on_disk(tmp_path: Path) -> None:
    engine = connect(tmp_path / "ledger.sqlite")
    with engine.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    engine.dispose()
