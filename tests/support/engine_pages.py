"""Bytes of an engine's pages in, what its engine file reads from them out: from wire to reading without a network."""

from collections.abc import Mapping

from agent.core.metrics.exposition import Exposition
from agent.core.readings import EngineReading
from agent.engines.bodies import decode
from agent.engines.contract import About, Bodies, EngineFile, Origin, Page


def bodies_of(engine: EngineFile, answers: Mapping[str, bytes]) -> Bodies:
    """The bodies that the engine file names, decoded."""
    return decode({**engine.state_paths, **engine.fallback_paths, **engine.about_paths}, answers)


def about_of(engine: EngineFile, answers: Mapping[str, bytes]) -> About:
    """What the engine says of itself in these answers."""
    return engine.about(bodies_of(engine, answers))


def read_page(
    engine: EngineFile, page: bytes | None = None, answers: Mapping[str, bytes] | None = None, path: str = ""
) -> list[EngineReading]:
    """Readings from a metrics page (None: there is none) and answers of other paths."""
    told = bodies_of(engine, answers or {})
    origin = Origin(engine="e", url="u", read_at_ns=1, about=engine.about(told) if told else About())
    scrape = None if page is None else Exposition().parse(page)
    where = path or (engine.metrics_paths[0] if engine.metrics_paths else "")
    return engine.read(Page(scrape=scrape, path=where, bodies=told), origin)
