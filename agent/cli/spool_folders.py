"""What the command line says about folders → the spools that are meant: one, or those of several workers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from agent.core.ports import ConfigError

FOLDER_HELP = (
    "the spool's folder, or the name of one of several workers', such as worker-0; default: all of the sidecar's, by "
    "the configuration"
)


class SpoolFolder(NamedTuple):
    """One spool."""

    path: Path
    name: str  # the last part of its path, which the sidecar knows it by
    of_several: bool  # whether the sidecar has, or had, workers with a spool each


def find_folders(given: Path | None, config: Path | None) -> list[SpoolFolder]:
    """The spools that are meant, at least one: that of the folder itself, and those of workers in it, by their numbers.

    `given` is a folder, or the name of one of the spools of the configuration's sidecar, which then is the only one
    meant. Raises `ConfigError` when there is none, or this user may not read it.
    """
    from agent.sidecar.records.shipping import worker_number

    if given is not None and given.name == str(given) and not given.exists() and (named := _named(given, config)):
        return [named]
    folder = given or _configured(config)
    where = "" if given else " (the sidecar's spool by this configuration; name another folder, or give --config)"
    try:
        found = _found(folder)
        if not found:
            raise ConfigError("FOLDER", f"{folder}{where} is {_instead(folder)}")
    except OSError as error:
        raise ConfigError("FOLDER", f"{folder}{where} cannot be read: {error.strerror}") from error
    if len(found) == 1 and found[0].path == folder:
        return [found[0]._replace(of_several=worker_number(folder) is not None)]
    return found


def only_one(found: Sequence[SpoolFolder], why: str, *, key: str = "--folder") -> SpoolFolder:
    """The one that was found. Raises `ConfigError` about `key`, with the reason `why`, when there are several."""
    if len(found) > 1:
        names = ", ".join(one.name for one in found)
        raise ConfigError(key, f"{why}; say which is meant, such as {found[-1].name}. There are {names}")
    return found[0]


def _named(name: Path, config: Path | None) -> SpoolFolder | None:
    try:
        return next((one for one in _found(_configured(config)) if one.name == name.name), None)
    except OSError:
        return None  # then it is taken for a folder, and that is what is told


def _found(folder: Path) -> list[SpoolFolder]:
    from agent.sidecar.records.shipping import worker_folders

    workers = [one for one in worker_folders(folder).values() if _is_spool(one)]
    own = [folder] if _is_spool(folder) else []
    return [SpoolFolder(path, path.absolute().name, bool(workers)) for path in (*own, *workers)]


def _is_spool(folder: Path) -> bool:
    from agent.spool.inspect import LOCK_NAME, streams_in

    return bool(streams_in(folder)) or (folder / LOCK_NAME).exists()


def _instead(folder: Path) -> str:
    from agent.spool.marks import NAME as MARKS_NAME

    inside = (folder / MARKS_NAME).exists()
    return "one stream of a spool; name the folder above it" if inside else "no spool: it has no streams"


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """What goes wrong while a spool is read, as `ConfigError`."""
    from agent.spool.frame import NewerFormat
    from agent.spool.inspect import newer

    try:
        yield
    except NewerFormat as error:
        raise ConfigError("FOLDER", newer(folder, error)) from error
    except OSError as error:
        raise ConfigError("FOLDER", f"{error.filename or folder} cannot be read: {error.strerror}") from error


def require_owner(folder: Path) -> None:
    """Files made by another user would keep the owner out. Raises `ConfigError`."""
    import os

    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise ConfigError(
            "FOLDER",
            f"{folder} belongs to user {_user(owner)}; do this as that user (sudo -u {_user(owner)} engineroom ...), "
            "because files that another user makes in it would lock that one out",
        )


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"


def _configured(config: Path | None) -> Path:
    from agent.config import load
    from agent.sidecar.records.shipping import spool_folder

    return spool_folder(load(config).sidecar)
