"""The rules of agent/README.md, as tests that fail."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "agent").rglob("*.py"), *(ROOT / "exporters").rglob("*.py")])
PURE = ("agent/core/", "agent/engines/", "agent/sidecar/meter")

# Files that hold no behaviour of their own: only values, settings or entry points that an end-to-end test runs.
WITHOUT_OWN_TEST = {
    "agent/__main__.py": "runs cli.main, which every end-to-end test starts",
    "agent/core/board.py": "two fields",
    "agent/core/gpu_readings.py": "values",
    "agent/core/ports.py": "exceptions and a protocol",
    "agent/core/readings.py": "values",
    "agent/core/requests.py": "values",
    "agent/core/workloads.py": "values",
    "agent/core/cost/reports.py": "values",
    "agent/core/metrics/promql/tree.py": "values",
    "agent/core/metrics/promql/values.py": "values",
    "agent/api/services.py": "values and protocols",
    "agent/engines/contract.py": "values and a protocol",
    "agent/doors/identity.py": "values and a refusal",
    "agent/spool/batch.py": "values",
    "agent/ledger/tables.py": "declarations; test_schema compares them with the migrations",
}


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def names(tree: ast.AST) -> set[str]:
    return {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute | ast.Name)
    }


def test_import_contracts_hold() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", [f for f in SOURCES if relative(f).startswith(PURE)], ids=relative)
def test_pure_code_reads_no_clock_and_awaits_nothing(file: Path) -> None:
    tree = ast.parse(file.read_text())
    waiting = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await)]
    if relative(file) == "agent/core/ports.py":
        waiting = []  # the protocol of exporters is async by nature; it has no body
    assert not waiting
    imported = {
        alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    imported |= {
        node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not imported & {"time", "socket", "subprocess", "asyncio", "anyio", "aiohttp", "os", "threading"}


BROAD = {
    "agent/lifecycle.py": "the edge of a periodic cycle",
    "agent/core/metrics/promql/parse.py": "the parser's PanicException is a BaseException that cannot be imported",
}


def test_broad_excepts_are_these_two() -> None:
    broad = [
        relative(file)
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or getattr(node.type, "id", "") in ("Exception", "BaseException"))
    ]
    assert sorted(broad) == sorted(BROAD)


@pytest.mark.parametrize("file", [f for f in SOURCES if f.name not in ("__init__.py", "settings.py")], ids=relative)
def test_every_source_file_has_its_test(file: Path) -> None:
    name = relative(file)
    if name in WITHOUT_OWN_TEST or "/migrations/" in name:
        return
    part = Path(name.removeprefix("agent/"))
    wanted = ROOT / "tests" / part.parent / f"test_{part.stem}.py"
    folder_test = ROOT / "tests" / part.parent.parent / f"test_{part.parent.name}.py"
    assert wanted.exists() or folder_test.exists(), f"write {relative(wanted)}"


@pytest.mark.parametrize("file", SOURCES, ids=relative)
def test_every_module_says_what_it_is(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text())), "the first line of a module says what flows in and out"


def test_tests_neither_sleep_nor_patch_our_modules() -> None:
    wrong = []
    for file in (ROOT / "tests").rglob("*.py"):
        text = file.read_text()
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "sleep":
                owner = node.func.value
                if isinstance(owner, ast.Name) and owner.id in ("time", "asyncio"):
                    wrong.append(f"{relative(file)}:{node.lineno} sleeps")
        if re.search(r"^(from|import) unittest\.mock|mocker\b", text, re.MULTILINE) and file != Path(__file__):
            wrong.append(f"{relative(file)} patches")
    assert not wrong


def test_no_file_names_a_package_index_or_this_machine() -> None:
    hosts = re.compile(r"pypi\.org|pythonhosted|registry\.npmjs|crates\.io|proxy\.golang|repo1?\.maven", re.IGNORECASE)
    wrong = []
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        file = ROOT / name
        if not file.is_file() or file == Path(__file__) or file.suffix in (".png", ".svg"):
            continue
        text = file.read_text(errors="replace")
        if hosts.search(text) or str(ROOT.parent) + "/" in text:
            wrong.append(name)
    assert not wrong
