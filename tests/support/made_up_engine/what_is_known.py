"""A folder with an engine file in, what this program knows of its server out, as JSON. For a process of its own."""

import json
import sys
from pathlib import Path

import msgspec

import tests.support.made_up_engine.beside_ours  # noqa: F401 - before anything looks for engines
from agent.collect.engines.advice import Adviser
from agent.collect.engines.diagnosis import Unread
from agent.collect.engines.look import Look
from agent.collect.engines.settings import EngineSettings
from agent.core.metrics.exposition import Exposition
from agent.engines.contract import Origin, Page, Process
from agent.engines.registry import BY_KIND, ENGINES, classify


def what_is_known(page: bytes) -> dict[str, object]:
    """Of each part of this program that has to do with engines, what it makes of the made-up one."""
    scrape = Exposition().parse(page)
    engine = BY_KIND["madeup"]
    classified = classify(scrape)
    shown = Look(engine, page=Page(scrape=scrape, path="/metrics"))
    hidden = Look(engine, unread=Unread("unknown_format", "answers 404"))
    readings = engine.read(shown.page, Origin(engine="e", url="u", read_at_ns=1))
    process = Process(pid=1, name="madeup-server", argv=("/opt/madeup-server", "--listen", "7070"))
    recognisers = {one.kind: found for one in ENGINES if (found := one.recognise(process)) is not None}
    return {
        "configured": EngineSettings(url="http://127.0.0.1:7070", kind="madeup").kind,
        "described": "madeup" in str(EngineSettings.model_json_schema()["properties"]["kind"]["description"]),
        "classified": classified.kind if classified else None,
        "readings": msgspec.to_builtins(readings),
        "recognised": {kind: found.port for kind, found in recognisers.items()},
        "advice": {advice.signal: advice.text for advice in Adviser().advise(shown, readings)},
        "advice_without_page": {advice.signal: advice.text for advice in Adviser().advise(hidden, [])},
    }


if __name__ == "__main__":
    json.dump(what_is_known(Path(sys.argv[1]).read_bytes()), sys.stdout)
