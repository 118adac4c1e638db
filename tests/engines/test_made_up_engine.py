"""Adding an engine is one file and one capture: shown on a server that nobody makes, in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tests.support.made_up_engine

ROOT = Path(__file__).parents[2]
MADE_UP = Path(tests.support.made_up_engine.__file__).parent


@pytest.fixture
def engines(tmp_path: Path) -> Path:
    """A folder with the one file that is added."""
    folder = tmp_path / "engines"
    folder.mkdir()
    shutil.copy(MADE_UP / "madeup.py", folder)
    return folder


def python(engines: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    ours = {name: value for name, value in os.environ.items() if name not in ("UPDATE_GOLDENS", "PYTEST_ADDOPTS")}
    environment = {**ours, "MADE_UP_ENGINES": str(engines), "PYTHONPATH": str(ROOT), **variables}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_one_file_is_enough_for_every_part_of_the_program(engines: Path) -> None:
    done = python(engines, "-m", "tests.support.made_up_engine.what_is_known", str(MADE_UP / "metrics.prom"))
    assert done.returncode == 0, done.stderr
    known = json.loads(done.stdout)
    (reading,) = known.pop("readings")
    assert known == {
        "configured": "madeup",
        "described": True,
        "classified": "madeup",
        "recognised": {"madeup": 7070},
        "advice": {"requests_waiting": "Made-up Server tells it with --crowd"},
        "advice_without_page": {
            "metrics": "Made-up Server shows its metrics with --numbers",
            "requests_waiting": "Made-up Server tells it with --crowd",
            "requests_running": "Made-up Server tells it with --numbers",
        },
    }
    assert (reading["model"], reading["kind"]) == ("small", "madeup")
    assert (reading["requests_running"], reading["tokens_total"]) == (2, {"output": 70})
    assert reading["queue_seconds"] == {"bounds": [0.5], "counts": [3, 4], "sum": 2}


def test_without_its_folder_nobody_has_heard_of_it(tmp_path: Path) -> None:
    done = python(tmp_path, "-m", "tests.support.made_up_engine.what_is_known", str(MADE_UP / "metrics.prom"))
    assert done.returncode == 1
    assert "KeyError: 'madeup'" in done.stderr


def captures(engines: Path, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """The tests of captures and of the shape of engine files, beside the captures in `folder`, for the made-up one."""
    for name in ("test_captures.py", "test_contract.py"):
        shutil.copy(Path(__file__).parent / name, folder)
    arguments = ("-q", "-k", "madeup", "--rootdir", str(folder), "-c", os.devnull, "-p", "no:cacheprovider")
    plugin = ("-p", "tests.support.made_up_engine.beside_ours")
    return python(engines, "-m", "pytest", *plugin, *arguments, "--import-mode=importlib", str(folder), **variables)


def test_a_file_without_capture_is_refused_and_told_what_to_record(engines: Path, tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    folder.mkdir()
    done = captures(engines, folder)
    assert done.returncode == 1, done.stdout
    assert "FAILED" in done.stdout
    assert "test_every_engine_file_has_a_capture[madeup]" in done.stdout
    assert "agent/engines/madeup.py has no recorded pages: start a real Made-up Server server" in done.stdout
    assert "engineroom record engine URL" in done.stdout
    assert "1 failed" in done.stdout


def test_a_capture_makes_it_whole(engines: Path, tmp_path: Path) -> None:
    folder = tmp_path / "captures"
    version = folder / "madeup" / "1.0"
    version.mkdir(parents=True)
    shutil.copy(MADE_UP / "metrics.prom", version)
    written = captures(engines, folder, UPDATE_GOLDENS="1")
    assert written.returncode == 0, written.stdout
    (golden,) = json.loads((version / "expected.json").read_text())
    assert golden["tokens_total"] == {"output": 70}
    checked = captures(engines, folder)
    assert checked.returncode == 0, checked.stdout
    assert "failed" not in checked.stdout
