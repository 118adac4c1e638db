"""An unpacked wheel in; a few of its modules as they are, and stand-ins for everything else they import, out."""

import ast
import enum
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Presets = Mapping[str, Mapping[str, Any]]


class Anything:
    """Takes every question and every call, and means nothing by it."""

    def __getattr__(self, name: str) -> "Anything":
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *_: Any, **__: Any) -> "Anything":
        return Anything()

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class _AnyType(type):
    """A class that may stand in annotations and as a base."""

    def __getattr__(cls, name: str) -> Anything:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __or__(cls, _: Any) -> Any:
        return cls

    def __ror__(cls, _: Any) -> Any:
        return cls

    def __getitem__(cls, _: Any) -> Any:
        return cls


def _any_class(name: str) -> type:
    def init(_: Any, *__: Any, **___: Any) -> None:
        return None

    def attribute(_: Any, wanted: str) -> Anything:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        return Anything()

    return _AnyType(name, (), {"__init__": init, "__getattr__": attribute})


class _Stub(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _any_class(name)
        setattr(self, name, made)
        return made


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, root: Path, tops: set[str], real: set[str], presets: Presets) -> None:
        self._root, self._tops, self._real, self._presets = root, tops, real, presets

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname.split(".")[0] not in self._tops:
            return None
        if fullname in self._real:
            return importlib.util.spec_from_file_location(fullname, file_of(self._root, fullname))
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = _Stub(spec.name)
        module.__path__ = []
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        if module.__name__.endswith(".logger"):
            module.init_logger = logging.getLogger  # type: ignore[attr-defined] # a stand-in has what it is given
        for name, value in self._presets.get(module.__name__, {}).items():
            setattr(module, name, value)


def file_of(root: Path, module: str) -> Path | None:
    """Where a module lies in the wheel; None for one that this version has not."""
    base = root.joinpath(*module.split("."))
    return next((file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()), None)


def serve(root: Path, tops: set[str], real: Sequence[str], presets: Presets) -> None:
    """From now on imports of the packages `tops` come from here: `real` modules from the wheel, stand-ins else."""
    there = {name for name in real if file_of(root, name)}
    sys.meta_path.insert(0, _Finder(root, tops, there, presets))


def definitions(file: Path, *names: str) -> dict[str, Any]:
    """Some enumerations and constants of a module that cannot be run whole; without names, all its constants."""
    wanted = []
    for node in ast.parse(file.read_text()).body:
        defined = {node.name} if isinstance(node, ast.ClassDef) and names else set()
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined = {node.target.id}
        elif isinstance(node, ast.Assign):
            defined = {target.id for target in node.targets if isinstance(target, ast.Name)}
        if defined & set(names) or (
            not names and defined and all(name.isupper() and name[0] != "_" for name in defined)
        ):
            wanted.append(node)
    found: dict[str, Any] = {"enum": enum, "IntEnum": enum.IntEnum}
    exec(compile(ast.Module(body=list(wanted), type_ignores=[]), str(file), "exec"), found)
    return found


class Config(types.SimpleNamespace):
    """A configuration with what it was given; everything else in it is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
