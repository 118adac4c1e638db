"""A running engine in, what its pages show out, as the files of a capture: never a prompt, a key or anything unnamed.

Only the documented read-only paths of that engine are asked, each once; what is asked and how it is read is the
scraper's own. A path whose answers are given only once is asked only where no metrics page is shown.
"""

from collections.abc import Mapping
from typing import Any

import anyio
import msgspec
from msgspec import inspect

from agent.collect.engines.asking import Asker
from agent.collect.engines.diagnosis import Unread, check_status, unknown_page
from agent.collect.engines.fetch import engine_session
from agent.collect.engines.identify import identify
from agent.collect.engines.look import Looker
from agent.collect.engines.targets import EngineTarget
from agent.collect.engines.unanswered import Unanswered
from agent.core.metrics.exposition import Exposition
from agent.core.metrics.redacted import Redactor
from agent.core.readings import EngineReading
from agent.engines.bodies import decode
from agent.engines.contract import EngineFile, Origin, Page
from agent.engines.registry import BY_KIND

PAGE = "metrics.prom"


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """What was recorded. `files`: name -> content. `notes`: what is not in it, and why, for people."""

    engine: EngineFile
    version: str | None
    models: tuple[str, ...]
    series: int
    files: dict[str, bytes]
    redacted: tuple[str, ...]  # labels of which values were replaced
    notes: tuple[str, ...]


async def record_engine(target: EngineTarget, *, hide_names: bool = False) -> Recorded:
    """Ask the engine once. Raises `Unread` when it does not answer, is none of ours, or shows nothing at all."""
    async with engine_session() as session:
        asker = Asker(session, target)
        await asker.begin()
        looker = Looker(asker, anyio.CapacityLimiter(1))
        engine = await identify(asker, looker) if target.kind == "auto" else BY_KIND[target.kind]
        return await _Recording(asker, engine, hide_names).run()


class _Recording:
    def __init__(self, asker: Asker, engine: EngineFile, hide_names: bool) -> None:
        self.asker = asker
        self.engine = engine
        self.hide_names = hide_names
        self.redactor = Redactor(engine.label_values, hide_names=hide_names)
        self.page: bytes | None = None
        self.path = ""
        self.bodies: dict[str, bytes] = {}
        self.notes: list[str] = []

    async def run(self) -> Recorded:
        no_page = await self._read_page()
        types = {**self.engine.state_paths, **self.engine.about_paths}
        if self.page is None and (no_page is None or no_page.state == "unknown_format"):  # not one that is only late
            types |= self.engine.fallback_paths
        for path in types:
            await self._read_body(path)
        if self.page is None and not any(path in self.bodies for path in self._telling()):
            raise no_page or Unread("down", f"{self.asker.target.url} answers none of the paths of {self.engine.title}")
        if no_page is not None:
            self.notes.append(f"no metrics page: {no_page.reason}")
        return self._recorded(types)

    def _telling(self) -> set[str]:
        """Paths without which there is nothing to read."""
        return {*self.engine.state_paths, *self.engine.fallback_paths} or set(self.engine.about_paths)

    async def _read_page(self) -> Unread | None:
        """Why there is no page, if there is none."""
        first: Unread | None = None
        for path, url in self.asker.pages(self.engine):
            try:
                answer = await self.asker.get(url)
                check_status(answer, url, (self.engine,))
                scrape = Exposition().parse(answer.body)
                if not self.engine.matches(scrape, path):
                    raise unknown_page(scrape, url, path, self.engine)
            except Unanswered as failure:
                raise Unread("down", failure.reason) from None
            except Unread as failure:
                first = first or failure
            else:
                self.page, self.path = answer.body, path
                return None
        return first

    async def _read_body(self, path: str) -> None:
        url = self.asker.address(path)
        try:
            answer = await self.asker.get(url)
        except Unanswered as failure:
            self.notes.append(f"{path} is not there: {failure.reason}")
            return
        if answer.status == 200:
            self.bodies[path] = answer.body
        else:
            self.notes.append(f"{path} is not there: it answers {answer.status}")

    def _recorded(self, types: Mapping[str, Any]) -> Recorded:
        files: dict[str, bytes] = {}
        kept_page = None
        if self.page is not None:
            kept_page = files[PAGE] = self.redactor.page(self.page)
        for path, kind in types.items():
            kept = self._kept_body(path, kind)
            if kept is not None:
                files[path.strip("/").replace("/", "-") + ".json"] = kept
        if self.redactor.left_out:
            self.notes.append(f"{self.redactor.left_out} lines of the page could not be read and were left out")
        own, again = self._read(self.page, self.bodies, types), self._read(kept_page, self.bodies, types)
        if own != again and not self.hide_names:
            labels = ", ".join(sorted(self.redactor.redacted))
            self.notes.append(
                f"it reads differently without the values of some of {labels}: name those that are the engine's own "
                f"words in label_values of agent/engines/{self.engine.kind}.py, and record again"
            )
        about = self.engine.about(decode(types, self.bodies))
        return Recorded(
            engine=self.engine,
            version=about.version,
            models=tuple(self.redactor.name(reading.model) for reading in own),
            series=len(Exposition().parse(kept_page).samples) if kept_page is not None else 0,
            files=files,
            redacted=tuple(sorted(self.redactor.redacted)),
            notes=tuple(self.notes),
        )

    def _kept_body(self, path: str, kind: Any) -> bytes | None:
        """The body with what the engine file names, and nothing else."""
        if path not in self.bodies:
            return None
        if not names_everything(kind):
            self.notes.append(f"{path} is left out: agent/engines/{self.engine.kind}.py does not name all of it")
            return None
        decoded = decode({path: kind}, {path: self.bodies[path]})
        if path not in decoded:
            self.notes.append(f"{path} is left out: it has not the shape that the engine file expects")
            return None
        told = self.redactor.body(msgspec.to_builtins(decoded[path]))
        return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"

    def _read(self, page: bytes | None, bodies: Mapping[str, bytes], types: Mapping[str, Any]) -> list[EngineReading]:
        told = decode(types, bodies)
        origin = Origin(engine="", url="", read_at_ns=0, about=self.engine.about(told))
        scrape = None if page is None else Exposition().parse(page)
        return self.engine.read(Page(scrape=scrape, path=self.path, bodies=told), origin)


def names_everything(kind: Any) -> bool:
    """Whether a type names all that it lets through: no `Any`, no raw JSON, no object with keys from elsewhere."""
    return _named(inspect.type_info(kind), set())


def _named(kind: inspect.Type, seen: set[type]) -> bool:
    match kind:
        case inspect.AnyType() | inspect.RawType() | inspect.DictType() | inspect.ExtType() | inspect.CustomType():
            return False
        case inspect.StructType(cls=cls, fields=fields):
            if cls in seen:
                return True
            seen.add(cls)
            return all(_named(one.type, seen) for one in fields)
        case inspect.UnionType(types=types):
            return all(_named(one, seen) for one in types)
        case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item):
            return _named(item, seen)
        case inspect.TupleType(item_types=items):
            return all(_named(one, seen) for one in items)
        case _:
            return True
