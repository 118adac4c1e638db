"""Kubelet's checkpoint file and the folders of pod logs in, devices and names out. Blocks, short."""

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from agent.core.attribution.checkpoint import Checkpoint, parse_checkpoint
from agent.core.attribution.podlogs import PodNames, parse_folder, pod_names

MAX_CHECKPOINT_BYTES = 32 * 2**20
_MOST_ENTRIES = 20_000


class NotThere(Exception):
    """What cannot be had. The text is one of few, so that it can be a label."""


def read_checkpoint(paths: tuple[Path, ...]) -> Checkpoint:
    """The first of the files that exists. Raises NotThere."""
    for path in paths:
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_CHECKPOINT_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            raise NotThere("may not be read: run as root") from error
        except OSError as error:
            raise NotThere("could not be read") from error
        if len(raw) > MAX_CHECKPOINT_BYTES:
            raise NotThere("is larger than 32 MiB")
        try:
            return parse_checkpoint(raw)
        except ValueError as error:
            raise NotThere("is not what kubelet writes") from error
    raise NotThere("is not there: mount kubelet's folder device-plugins, read-only")


class LogFolders:
    """What the names in the two folders say; `pods` and `containers` tell what was wrong with each, '' if nothing."""

    def __init__(self, pod_logs: Path, container_logs: Path) -> None:
        self._pod_logs = pod_logs
        self._container_logs = container_logs
        self.pods = ""
        self.containers = ""

    def read(self, uids: Iterable[str]) -> PodNames:
        """Names of all pods, and of the containers in the folders of those with `uids`."""
        folders, self.pods = _names(self._pod_logs)
        links, self.containers = _names(self._container_logs)
        wanted = frozenset(uids)
        found = {
            folder: self._containers(folder) if (pod := parse_folder(folder)) and pod.pod_uid in wanted else {}
            for folder in folders
        }
        return pod_names(found, links)

    def _containers(self, folder: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for container in _names(self._pod_logs / folder)[0]:
            place = self._pod_logs / folder / container
            found[container] = _targets(place, _names(place)[0])
        return found


def _names(folder: Path) -> tuple[list[str], str]:
    """Names in a folder, and why there are none."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in islice(entries, _MOST_ENTRIES)], ""
    except PermissionError:
        return [], "may not be read: run as root"
    except OSError:
        return [], "is not there: mount it, read-only"


def _targets(folder: Path, names: list[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(str((folder / name).readlink()))
        except OSError:
            continue  # a file, as all runtimes but Docker have it
    return found
