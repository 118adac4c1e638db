"""What nvidia-smi printed on a real GPU in MIG mode (../shared/captures): the three places where it shows slices."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

FOLDER = Path(__file__).parents[3] / "shared/captures/gpu/utkuozdemir-nvidia_gpu_exporter"


class Row(NamedTuple):
    """A MIG device in the table of plain `nvidia-smi`."""

    gpu_instance: int
    compute_instance: int
    index: int
    used_mebibytes: int
    total_mebibytes: int
    multiprocessors: int


class Listed(NamedTuple):
    """A process in the table of plain `nvidia-smi`."""

    gpu_instance: int
    compute_instance: int
    pid: int
    mebibytes: int


def section(name: str, title: str) -> str:
    """One section of a capture; skips the test where there are no captures."""
    path = FOLDER / name
    if not path.exists():
        pytest.skip("the captures of ../shared are not here")
    parts = re.split(r"^#{80}\n# (.+)\n# \$.*\n#{80}\n", path.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))[title]


def names(text: str) -> list[tuple[int, str]]:
    """`nvidia-smi -L`: index and profile."""
    return [(int(index), profile) for profile, index in re.findall(r"MIG (\S+)\s+Device\s+(\d+):", text)]


def rows(text: str) -> list[Row]:
    """The MIG table."""
    found = re.findall(r"\|\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)\s+\|\s+(\d+)MiB /\s+(\d+)MiB\s+\|\s+(\d+) ", text)
    return [Row(*(int(value) for value in row)) for row in found]


def listed(text: str) -> list[Listed]:
    """The process table."""
    found = re.findall(r"\|\s+\d+\s+(\d+)\s+(\d+)\s+(\d+)\s+C\s+\S+\s+(\d+)MiB", text)
    return [Listed(*(int(value) for value in row)) for row in found]


def parent_used_mebibytes(text: str) -> int:
    """Memory in use on the GPU as a whole."""
    found = re.search(r"\|\s+(\d+)MiB / +\d+MiB \| +N/A +Default", text)
    assert found is not None
    return int(found[1])


def details(text: str) -> list[dict[str, int]]:
    """`nvidia-smi -q`: the numbers of each MIG device, by their labels."""
    return [
        {label.strip(): int(value) for label, value in re.findall(r"^ +([A-Z][\w ]+?) +: (\d+)", block, re.MULTILINE)}
        for block in re.split(r"\n {4}MIG Device\n", re.split(r"\n {4}Accounting Mode", text)[0])[1:]
    ]
