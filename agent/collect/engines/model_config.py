"""Pids of an engine in, the shape of the model they were started with out: its config.json, read where they see it.

The model is what the command line names: a folder, or a name on the Hugging Face hub, whose files are in the engine's
cache. Paths are those of the engine's own file system, through /proc/PID/root, which only root and the engine's user
may enter. That file system belongs to somebody else: its links are followed within it and nowhere else, and nothing but
a regular file of moderate size is read. Blocks, short; on a network file system that hangs, as long as that does.
"""

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent.core.cost.model_config import shape_of_config
from agent.core.cost.shapes import ModelShape
from agent.engines.arguments import option

MOST_BYTES = 4 * 2**20
_MOST_LINKS = 40
_MOST_WORDS = 2**20  # bytes of a command line or an environment; of that, only where caches are is looked at
_OPTIONS = ("--model", "--model-path", "--model-id", "--model_name_or_path")
_CACHES = (
    ("HF_HUB_CACHE", ""),
    ("HUGGINGFACE_HUB_CACHE", ""),
    ("HF_HOME", "hub"),
    ("XDG_CACHE_HOME", "huggingface/hub"),
)
_FILE = "config.json"


def model_shape(pids: Iterable[int], proc: Path = Path("/proc")) -> ModelShape | None:
    """Of the first of these processes that names a model whose config.json can be read; None: of none of them."""
    for pid in pids:
        process = proc / str(pid)
        model = named_model(_words(process / "cmdline"))
        if not model:
            continue
        for folder in _folders(process, model):
            config = _read(process / "root", f"{folder}/{_FILE}")
            shape = None if config is None else shape_of_config(config, "model_folder", f"{folder}/{_FILE}")
            if shape is not None:
                return shape
    return None


def named_model(argv: Sequence[str]) -> str | None:
    """What the command line names as its model: an option, or the word after ``serve``."""
    if (named := option(argv, *_OPTIONS)) is not None:
        return named
    for at, word in enumerate(argv[:4]):
        follows = argv[at + 1 : at + 2]
        if word == "serve" and follows and not follows[0].startswith("-"):
            return follows[0]
    return None


def _words(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            return [os.fsdecode(word) for word in opened.read(_MOST_WORDS).split(b"\0")]
    except OSError:
        return []


def _folders(process: Path, model: str) -> list[str]:
    """Where its files may be, in the process' own file system."""
    if model.startswith(("/", "./", "../", "~")):
        return [_from_working_folder(process, model)]
    found = [_from_working_folder(process, model)]
    if model.count("/") <= 1:
        folder = "models--" + model.replace("/", "--")
        for cache in _caches(process):
            snapshots = _inside(process / "root", f"{cache}/{folder}/snapshots")
            try:
                names = sorted(one.name for one in snapshots.iterdir()) if snapshots is not None else []
            except OSError:
                names = []
            found += [f"{cache}/{folder}/snapshots/{name}" for name in names[-4:]]
    return found


def _from_working_folder(process: Path, model: str) -> str:
    if model.startswith("/"):
        return model
    try:
        return f"{(process / 'cwd').readlink()}/{model}"
    except OSError:
        return f"/{model}"


def _caches(process: Path) -> list[str]:
    """Folders of the hub's cache, by the environment of the process, else at the usual place."""
    environ = dict(word.partition("=")[::2] for word in _words(process / "environ"))
    told = [f"{environ[name]}/{below}" for name, below in _CACHES if environ.get(name)]
    return [*told, f"{_home(environ)}/.cache/huggingface/hub"]


def _home(environ: Mapping[str, str]) -> str:
    return environ.get("HOME") or "/root"


def _read(root: Path, path: str) -> dict[str, object] | None:
    file = _inside(root, path)
    if file is None:
        return None
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            text = opened.read(MOST_BYTES + 1)
        config = json.loads(text) if len(text) <= MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def _inside(root: Path, path: str) -> Path | None:
    """The path in the file system below `root`, without links, which are all read as they are meant there."""
    at, waiting, links = list[str](), path.split("/")[::-1], 0
    while waiting:
        part = waiting.pop()
        if part in ("", "."):
            continue
        if part == "..":
            del at[-1:]
            continue
        try:
            target = str(root.joinpath(*at, part).readlink())
        except OSError:  # no link, or nothing there
            at.append(part)
            continue
        except ValueError:  # a zero byte
            return None
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.startswith("/"):
            at = []
        waiting += target.split("/")[::-1]
    return root.joinpath(*at)
