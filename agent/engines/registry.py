"""The engines we know: every module of this folder that has an `ENGINE`."""

import pkgutil
from collections.abc import Iterable
from importlib import import_module

import agent.engines
from agent.core.metrics.scrape import Scrape
from agent.engines.contract import EngineFile


def find(folders: Iterable[str], package: str) -> tuple[EngineFile, ...]:
    """The engine files in `folders`, by kind; those whose names are shared by several servers come last."""
    modules = (import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules(folders))
    found = [module.ENGINE for module in modules if isinstance(getattr(module, "ENGINE", None), EngineFile)]
    return tuple(sorted(found, key=lambda engine: (engine.generic, engine.kind)))


ENGINES = find(set(agent.engines.__path__), agent.engines.__name__)

BY_KIND: dict[str, EngineFile] = {engine.kind: engine for engine in ENGINES}


def classify(scrape: Scrape, path: str = "/metrics") -> EngineFile | None:
    """The engine that this page is from, by its content and the path it was found at; None when no file knows it."""
    return next((engine for engine in ENGINES if engine.matches(scrape, path)), None)
