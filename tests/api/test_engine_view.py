import pytest
from msgspec.structs import replace

from agent.api.charts import Frame
from agent.api.engine_figures import Latencies, Latency, read_latencies
from agent.api.engine_view import MOST_CARDS, EngineCard, engine_cards
from agent.api.history_view import QUERIES
from agent.core.cost.present import PresentSlot
from agent.core.readings import Advice, EngineSnapshot, Histogram
from agent.core.workloads import Workload
from tests.support.api import NOW_NS, NS, engine
from tests.support.engine_figures import NOW_MS, BusyQueries, history

FRAME = Frame(0, 600_000, 5_000)
NO_CHARTS = {name: {} for name in QUERIES}
THIN = "\u202f"


def cards(
    *engines: EngineSnapshot, latencies: Latencies | None = None, slots: tuple[PresentSlot, ...] = (), **charts: object
) -> list[EngineCard]:
    board = {snapshot.status.engine: snapshot for snapshot in engines}
    return engine_cards(board, {**NO_CHARTS, **charts}, FRAME, latencies or {}, slots, NOW_NS)  # type: ignore[dict-item]


def busy(name: str, **changes: object) -> EngineSnapshot:
    """An engine that is up, with a reading."""
    snapshot = engine(name)
    return EngineSnapshot(status=replace(snapshot.status, **changes), readings=snapshot.readings)


def slot(engine: str, index: int | None = 0, kind: str = "gpu", profile: str = "") -> PresentSlot:
    return PresentSlot(
        gpu="GPU-0123456789", index=index, slot=f"S{index}", kind=kind, profile=profile, weight=1, weights=1,
        state="request", reason="engine", engines=(engine,),
    )  # type: ignore[arg-type]  # fmt: skip


def test_engines_are_shown_when_watched_and_when_only_seen_by_the_sidecar() -> None:
    chat, seen = cards(busy("chat"), requests={("seen",): [(600_000, 2.0)]})
    assert (chat.name, chat.state, chat.pill) == ("chat", "ready", "ready")
    assert (seen.name, seen.state, seen.pill) == ("seen", "seen", "seen by the sidecar")
    assert (chat.kind, chat.served) == ("vLLM 0.33.0", "Qwen/Qwen3-32B")
    assert [(fact.label, fact.value) for fact in chat.facts] == [
        ("p99", "—"),
        ("Running", "14"),
        ("Waiting", "2"),
        ("KV cache", f"62{THIN}%"),
    ]
    assert seen.facts == []
    assert len(chat.charts) == len(seen.charts) == 4


def test_quantiles_say_between_which_bounds_they_lie_and_who_measured_them() -> None:
    for source, whose in (("engine", "the engine's own buckets"), ("sidecar", "buckets of the sidecar")):
        queries = BusyQueries(history([("chat", "m")], source), ["chat"])
        (card,) = cards(busy("chat"), latencies=read_latencies(queries, NOW_MS, sums=False))
        block = next(block for block in card.models if block.rows)
        rows = {row.label: row for row in block.rows}
        assert list(rows) == ["Request", "First token", "Per token", "In queue"]
        p99 = rows["Request"].quantiles[2]
        assert (p99.value, p99.between) == (f"2.22{THIN}s", f"1.5 – 2.5{THIN}s")
        assert p99.title == f"between 1.5{THIN}s and 2.5{THIN}s, by {whose}"
        assert rows["Request"].quantiles[0].between == f"800{THIN}ms – 1{THIN}s"
        assert rows["In queue"].quantiles[2].between == f"up to 300{THIN}ms"
        assert {(row.source, row.observations) for row in block.rows} == {(source, "498")}
        assert (card.facts[0].value, card.facts[0].note) == (p99.value, p99.title)


def test_above_the_last_bound_and_without_buckets() -> None:
    above = Latency("engine", Histogram(bounds=(1.0, 7680.0), counts=(0.0, 0.0, 9.0)))
    bare = Latency("engine", Histogram(bounds=(), counts=(9.0,), sum=3.0))
    quiet = Latency("engine", Histogram(bounds=(1.0,), counts=(0.0, 0.0)))
    found = {"request_duration_seconds": above, "queue_seconds": bare, "time_to_first_token_seconds": quiet}
    (card,) = cards(busy("chat"), latencies={("chat", "Qwen/Qwen3-32B"): found})
    first, second = card.models[0].rows
    assert (first.quantiles[0].value, first.quantiles[0].between) == (f">{THIN}7680{THIN}s", "last bound")
    assert "more than 7680" in first.quantiles[0].title
    assert (second.quantiles[0].value, second.quantiles[0].between) == ("—", "")


def test_an_engine_of_many_models_shows_the_busiest() -> None:
    reading = engine("lora").readings[0]
    models = [f"adapter-{number}" for number in range(9)]
    readings = tuple(replace(reading, model=model, model_memory_bytes=2**33) for model in models)
    load = Latency("engine", Histogram(bounds=(1.0,), counts=(5.0, 5.0)))
    snapshot = EngineSnapshot(status=engine("lora").status, readings=readings)
    (card,) = cards(snapshot, latencies={("lora", "adapter-7"): {"queue_seconds": load}})
    assert [block.name for block in card.models] == ["adapter-7", "adapter-0", "adapter-1", "adapter-2"]
    assert card.more_models == 5
    assert card.served.endswith("adapter-3 and 5 more")
    assert card.models[0].facts == f"14 running · 2 waiting · KV cache 62{THIN}% · 8.0{THIN}GiB of GPU memory"
    assert card.facts[1].value == "126"


def test_what_is_known_of_its_life_and_place() -> None:
    (card,) = cards(
        busy(
            "chat",
            live=True,
            ready=False,
            process_started_at_ns=NOW_NS - 7200 * NS,
            ready_after_seconds=94.0,
            restarts=2,
            crash_looping=True,
            role="decode",
            service="chat",
            group="10.0.0.1:29500",
            nodes=2,
            node_rank=1,
            workload=Workload(namespace="llm", pod="chat-0"),
        ),
        slots=(slot("chat", 0), slot("chat", 1, "mig", "3g.40gb"), slot("chat", None, "share"), slot("other", 7)),
    )
    assert card.probes == [("live", True), ("ready", False), ("started", None)]
    assert dict(card.traits) == {
        "GPU": "0, 1 (3g.40gb), GPU-01234567 (share)",
        "role": "decode of chat",
        "group": "10.0.0.1:29500, node 2 of 2",
        "runs in": "llm/chat-0",
        "up": f"2.0{THIN}h",
        "ready after": f"94{THIN}s",
        "restarts seen": "2",
    }
    assert card.crash_looping
    (bare,) = cards(busy("chat", gpus=("3",)))
    assert (bare.probes, bare.traits) == ([], [("GPU", "3")])


def test_workers_and_servers_out_of_reach_say_what_they_are() -> None:
    worker = busy("rank1", url="", part="worker", group="a:1", nodes=2)
    far = engine("ollama", url="", state="down", reason="another network namespace")
    lost = engine("rank2", url="", part="worker", state="down")
    shown = {card.name: card for card in cards(worker, far, lost)}
    assert (shown["rank1"].pill, shown["rank1"].is_worker, shown["rank1"].charts) == ("worker", True, [])
    assert dict(shown["rank1"].traits) == {"group": "a:1, 2 nodes"}
    assert shown["rank2"].pill == "worker, down"
    assert (shown["ollama"].pill, shown["ollama"].reason) == ("out of reach", "another network namespace")
    assert shown["ollama"].facts == []


def test_advice_is_grouped_and_leaves_out_what_the_sidecar_tells() -> None:
    said = [("timeout", "none"), ("client_abort", "none"), ("queue_seconds", "a flag")]
    snapshot = busy("chat", advice=tuple(Advice(signal=signal, text=text) for signal, text in said))
    assert cards(snapshot)[0].advice == [("timeout, client_abort", "none"), ("queue_seconds", "a flag")]
    latencies = read_latencies(BusyQueries(history([("chat", "m")], "sidecar"), []), NOW_MS, sums=False)
    assert cards(snapshot, latencies=latencies)[0].advice == [("queue_seconds", "a flag")]


@pytest.mark.parametrize("count", [MOST_CARDS, MOST_CARDS + 1])
def test_many_engines_come_without_charts_and_the_worst_first(count: int) -> None:
    good = [busy(f"e{number:02d}") for number in range(count - 2)]
    found = cards(*good, engine("y", state="starting"), engine("z", state="down"))
    few = count <= MOST_CARDS
    assert [card.name for card in found][:2] == (["e00", "e01"] if few else ["z", "y"])
    assert bool(found[0].charts) is few
    assert len(found) == count
