"""The versions of engines whose metrics code is run, fetched by pip at the first run and kept below `.cache`."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
KEPT = ROOT / ".cache/ci/wheels"
PATIENCE_SECONDS = 600


@dataclass(frozen=True)
class Run:
    """One version of one engine, and the driver that runs its metrics code."""

    package: str
    version: str
    driver: str  # a module beside this one
    folders: tuple[str, ...]  # of the wheel, that hold this code
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join((self.package, self.version, *self.flags))


_V1 = ("vllm/v1/engine/", "vllm/v1/metrics/", "vllm/v1/spec_decode/", "vllm/distributed/")
_SGLANG = ("sglang/srt/metrics/", "sglang/srt/observability/", "sglang/srt/utils/")
RUNS = (
    Run("vllm", "0.6.6", "vllm_v0", ("vllm/engine/",)),
    Run("vllm", "0.11.2", "vllm_v1", _V1),
    Run("vllm", "0.33.0", "vllm_v1", _V1),
    Run("vllm", "0.33.0", "vllm_v1", _V1, ("dp",)),
    Run("sglang", "0.4.10", "sglang", _SGLANG),
    Run("sglang", "0.5.10", "sglang", _SGLANG),
    Run("sglang", "0.5.23", "sglang", _SGLANG),
)


def need_wheel(run: Run) -> Path:
    """Folder of the unpacked wheel. Skips the test where no index is reachable; fails where CI demands all."""
    folder = KEPT / f"{run.package}-{run.version}"
    if folder.is_dir():
        return folder
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as name:
        wanted = f"{run.package}=={run.version}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", name, wanted], capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
        found = list(Path(name).glob("*.whl"))
        if not found:
            message = f"pip cannot download {wanted}: {done.stderr.strip()[-300:]}"
            if os.environ.get("ENGINEROOM_NEED_ALL_COMPONENTS"):
                pytest.fail(message)
            pytest.skip(message)
        _unpack(found[0], run.folders, folder)
    return folder


def _unpack(wheel: Path, folders: tuple[str, ...], into: Path) -> None:
    """Its Python files in these folders, and nothing else: a wheel of vLLM holds hundreds of megabytes of kernels."""
    half = Path(tempfile.mkdtemp(dir=into.parent))
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".py") and name.startswith(folders)]
        archive.extractall(half, names)
    try:
        half.rename(into)  # whole or not at all
    except OSError:  # another test run was first
        shutil.rmtree(half)


def run_driver(run: Run, folder: Path) -> Path:
    """Run the driver in a process of its own; the folder then holds `metrics.prom` and `observed.json`."""
    shared = folder / "multiprocess"
    shared.mkdir()
    command = [sys.executable, "-m", f"tests.support.real_metrics.{run.driver}"]
    done = subprocess.run(
        [*command, str(need_wheel(run)), run.version, str(folder), *run.flags],
        cwd=ROOT,
        env=os.environ | ({"PROMETHEUS_MULTIPROC_DIR": str(shared)} if run.driver == "sglang" else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder
