"""Compiles nvml.c with the facts of a machine file into a libnvidia-ml.so.1, leaving out the symbols one names."""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from agent.demo.gpus.machine import GpuFacts, Machine, Recorded
from agent.demo.gpus.model import NodeSim

SOURCE = Path(__file__).with_name("nvml.c")


def build(machine: Machine, folder: Path, compiler: str, missing: Iterable[str] = ()) -> Path:
    """Folder for LD_LIBRARY_PATH. Built once for the same machine, source and omissions."""
    omitted = sorted(set(missing) | set(machine.missing))
    source = SOURCE.read_text()
    header = _header(machine)
    key = hashlib.sha256(json.dumps([source, header, omitted]).encode()).hexdigest()[:16]
    target = folder / f"nvml-{key}"
    library = target / "libnvidia-ml.so.1"
    if library.exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    (target / "machine.h").write_text(header)
    exports = sorted(set(re.findall(r"^(?:int|const char \*) ?(nvml\w+)\(", source, re.MULTILINE)) - set(omitted))
    script = target / "exports"
    script.write_text("{ global: " + " ".join(f"{name};" for name in exports) + " local: *; };\n")
    fresh = target / "fresh.so"
    options = ["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{target}"]
    linking = ["-Wl,-soname,libnvidia-ml.so.1", f"-Wl,--version-script={script}"]
    subprocess.run([compiler, *options, *linking, str(SOURCE), "-o", str(fresh)], check=True)
    fresh.rename(library)
    return target


def _header(machine: Machine) -> str:
    node = NodeSim(machine)
    rows = ",\n".join(_gpu(gpu.facts, gpu.uuid, gpu.pci_bus_id) for gpu in node.gpus)
    return (
        f'#define DRIVER_VERSION "{machine.driver_version}"\n'
        f'#define NVML_VERSION "{machine.nvml_version or ""}"\n'
        f"#define CUDA_DRIVER_VERSION {machine.cuda_driver_version or 0}\n"
        f"#define GPU_COUNT {len(node.gpus)}\n"
        f"static const struct gpu GPUS[] = {{\n{rows}\n}};\n"
    )


def _gpu(facts: GpuFacts, uuid: str, bus_id: str) -> str:
    words = [uuid, facts.model, bus_id, " ".join(facts.unsupported), " ".join(map(str, facts.unsupported_fields))]
    texts = ", ".join(f'"{word}"' for word in words)
    numbers = [
        f"{facts.memory_total_bytes}ULL",
        f"{facts.memory_reserved_bytes}ULL",
        f"{facts.memory_baseline_bytes}ULL",
        str(round((facts.power_limit_watts or 0) * 1000)),
        _or_absent(facts.slowdown_celsius),
        _or_absent(facts.slowdown_margin_celsius),
    ]
    return f"{{{texts}, {', '.join(numbers)}, {_state(facts.idle)}, {_state(facts.load or facts.idle)}}}"


def _state(state: Recorded) -> str:
    clocks = ", ".join(str(state.clocks_megahertz.get(name, 0)) for name in ("graphics", "sm", "memory", "video"))
    values = [
        state.utilization_percent or 0,
        state.memory_utilization_percent or 0,
        _or_absent(state.temperature_celsius),
        _or_absent(state.memory_temperature_celsius),
        _or_absent(state.temperature_margin_celsius),
        round((state.power_watts or 0) * 1000),
    ]
    return f"{{{', '.join(map(str, values))}, {{{clocks}}}, {state.throttle_mask}ULL}}"


def _or_absent(value: float | None) -> str:
    return "ABSENT" if value is None else str(round(value))
