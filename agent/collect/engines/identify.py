"""An unknown server's address in, the engine it is out: by what it says of its models, else by its metrics page."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agent.collect.engines.asking import Asker
from agent.collect.engines.diagnosis import Unread, check_status, why_unknown
from agent.collect.engines.look import MAX_BODY_BYTES, Looker
from agent.collect.engines.unanswered import Unanswered
from agent.engines.contract import EngineFile
from agent.engines.registry import ENGINES, classify

MODELS_PATH = "/v1/models"
_MODELS_SHARE = 1 / 3  # of the time of a scrape: an engine under load answers late, and its metrics page in time


class UnknownPage(Unread):
    """A page was shown, and it is not one of ours."""


class _Model(msgspec.Struct):
    owned_by: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model] = []


async def identify(asker: Asker, looker: Looker, engines: Sequence[EngineFile] = ENGINES) -> EngineFile:
    """The engine that answers. Raises Unread where none of ours does, with what to do.

    The models come first: a metrics path of one engine may be a path of another at which each answer is given once.
    """
    owned = await _by_owner(asker, engines)
    if owned is not None:
        return owned
    failures: list[Unread] = []
    for path in harmless_first(engines):
        try:
            return await _by_page(asker, looker, path, engines)
        except Unread as failure:
            if failure.state != "unknown_format":
                raise
            failures.append(failure)
    # A page of somebody else's metrics says more than a path that is not there.
    raise next((failure for failure in failures if isinstance(failure, UnknownPage)), failures[-1])


def harmless_first(engines: Iterable[EngineFile]) -> list[str]:
    """All paths of metrics pages, in the engines' order; those that mean something else to some engine come last."""
    known = tuple(engines)
    paths = dict.fromkeys(path for engine in known for path in engine.metrics_paths)
    others = {path for engine in known for path in (*engine.state_paths, *engine.fallback_paths)}
    return sorted(paths, key=lambda path: path in others)


def owner_of(models: bytes, engines: Iterable[EngineFile] = ENGINES) -> EngineFile | None:
    """The engine whose name stands in an answer of ``/v1/models``; None for another's, or none."""
    try:
        data: Any = msgspec.json.decode(models, type=_Models).data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    owners = {model.owned_by for model in data}
    return next((engine for engine in engines if owners.intersection(engine.owners)), None)


async def _by_owner(asker: Asker, engines: Sequence[EngineFile]) -> EngineFile | None:
    seconds = asker.left_seconds * _MODELS_SHARE
    try:
        answer = await asker.get(asker.address(MODELS_PATH), max_bytes=MAX_BODY_BYTES, at_most_seconds=seconds)
    except Unanswered as failure:
        if failure.late or failure.spoke:
            return None
        raise Unread("down", failure.reason, silent=failure.silent) from None
    return owner_of(answer.body, engines) if answer.status == 200 else None


async def _by_page(asker: Asker, looker: Looker, path: str, engines: Sequence[EngineFile]) -> EngineFile:
    address = asker.address(path)
    try:
        answer = await asker.get(address)
    except Unanswered as failure:
        raise Unread("down", failure.reason, silent=failure.silent) from None
    check_status(answer, address, engines)
    scrape = await looker.parse(answer.body, "")
    engine = classify(scrape, path)
    if engine is None:
        raise UnknownPage("unknown_format", why_unknown(scrape, address, "auto", engines, path))
    return engine
