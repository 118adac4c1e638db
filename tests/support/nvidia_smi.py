"""Recorded output of nvidia-smi (beside this repository) in, its values by section and key out."""

import re

CAPTURES = "captures/gpu/utkuozdemir-nvidia_gpu_exporter"
MIB = 2**20

# Machine file -> the recording that it was taken from. The two of MIG mode have tests of their own.
FILES = {
    "h100x8": "linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01.txt",
    "h200": "linux-x86_64__nvidia-h200__590.48.01.txt",
    "l40s": "linux-x86_64__nvidia-l40s__595.80.txt",
    "rtx2080s": "linux-x86_64__nvidia-geforce-rtx-2080-super__610.57.04.txt",
    "rtx4080sx2": "linux-x86_64__nvidia-geforce-rtx-4080-super__595.71.05.txt",
}


def state_of(name: str, part: str) -> str:
    """The state of the machine file that a part of a recording shows: the L40S had not yet come to rest."""
    return "trailing" if (name, part) == ("l40s", "idle") else part


def query(text: str, state: str) -> dict[str, str]:
    """`nvidia-smi -q` under `state` (idle, load) as {"Section/Key": value}."""
    part = text.split(f"# {state} :: query (-q)")[1].split("# " + state + " :: query-gpu")[0]
    found: dict[str, str] = {}
    path: list[str] = []
    for line in part.splitlines():
        if not line.strip() or line.startswith(("#", "=")):
            continue
        depth = (len(line) - len(line.lstrip())) // 4
        key, colon, value = (piece.strip() for piece in line.partition(" : "))
        path = [*path[:depth], key]
        if colon or " : " in line:
            found.setdefault("/".join(path[1:]) if depth else key, value)
    return found


def processes(text: str, state: str) -> list[tuple[int, int]]:
    """pid and memory in bytes of the compute processes under `state`."""
    part = text.split(f"# {state} :: query-compute-apps")[1].split("\n\n")[0]
    rows = [line.split(", ") for line in part.splitlines() if " MiB" in line and "[MiB]" not in line]
    return [(int(row[5]), int(row[7].removesuffix(" MiB")) * MIB) for row in rows]


def number(text: str) -> float | None:
    """The number at the beginning of a value; None for N/A."""
    found = re.match(r"-?[\d.]+", text)
    return float(found.group()) if found else None
