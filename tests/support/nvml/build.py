"""Compiles nvml.c into a libnvidia-ml.so.1 that exports what a machine's driver does, less the symbols one names."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agent.collect.gpu.shapes import SHAPES
from agent.demo.gpus.machine import Machine
from agent.demo.gpus.model import NodeSim
from agent.demo.gpus.nvml import SimulatedNvml
from tests.support.nvml.render import c_shape
from tests.support.nvml.writer import functions

_HERE = Path(__file__).parent
SOURCES = (_HERE / "nvml.c", _HERE / "stateful.c", _HERE / "nvml.h")


def build(machine: Machine, folder: Path, compiler: str, missing: Iterable[str] = ()) -> Path:
    """Folder for LD_LIBRARY_PATH. Built once for the same source, functions and omissions."""
    omitted = set(missing) | set(machine.missing)
    exports = sorted(set(functions(SimulatedNvml(NodeSim(machine)))) - omitted)
    generic = [name for name in exports if name in SHAPES]
    header = "".join(f'FUNCTION({name}, "{c_shape(name)}")\n' for name in generic)
    key = hashlib.sha256(
        json.dumps([*(source.read_text() for source in SOURCES), header, exports]).encode()
    ).hexdigest()[:16]
    target = folder / f"nvml-{key}"
    library = target / "libnvidia-ml.so.1"
    if library.exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    (target / "functions.h").write_text(header)
    script = target / "exports"
    script.write_text("{ global: " + " ".join(f"{name};" for name in exports) + " local: *; };\n")
    fresh = target / "fresh.so"
    options = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{target}"]
    linking = ["-Wl,-soname,libnvidia-ml.so.1", f"-Wl,--version-script={script}"]
    units = [str(source) for source in SOURCES if source.suffix == ".c"]
    subprocess.run([compiler, *options, *linking, *units, "-o", str(fresh)], check=True)
    fresh.rename(library)
    return target
