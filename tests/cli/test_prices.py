"""`engineroom prices`: what people see, and the exit status."""

import argparse
from pathlib import Path

import pytest
import yaml

from agent.cli import prices
from agent.core.cost.price_findings import Finding
from agent.core.ports import ConfigError

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/prices.yaml"
LIST = "gpu,per_gpu_hour,currency\nNVIDIA L4,0.44,USD\nNVIDIA L40,x,USD\n"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    prices.add_to(parser.add_subparsers())
    options = parser.parse_args(["prices", *arguments])
    status: int = options.handler(options)
    return status


def test_a_right_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", str(EXAMPLE)) == 0
    assert capsys.readouterr().out.endswith(f"{EXAMPLE}: no errors, no warnings\n")


def test_a_wrong_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("books:\n  - currency: USD\n    rows:\n      - {gpu: NVIDIA L4, per_gpu_hour: 321}\n")
    assert run("check", str(file)) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"ERROR   {file}:4: books.0.rows.0 (NVIDIA L4): 321 USD for a GPU hour is above")
    assert "; it looks like a price per month" in first
    assert last == f"{file}: 1 error, no warnings"


def test_the_file_that_the_configuration_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "engineroom.yaml"
    config.write_text(f"prices: {{file: {EXAMPLE}, currency: CNY}}\n")
    assert run("check", "--config", str(config)) == 0
    assert str(EXAMPLE) in capsys.readouterr().out
    config.write_text("prices: {books: [{currency: USD, rows: [{gpu: NVIDIA L4, per_gpu_hour: 0.4}]}]}\n")
    assert run("check", "--config", str(config)) == 0
    assert str(config) in capsys.readouterr().out
    with pytest.raises(ConfigError, match="name a price file"):
        run("check")


def test_names_cannot_steer_a_terminal() -> None:
    (line,) = prices.lines([Finding("note", "a\x1b[2J", "b\n", "c")])
    assert line == "note    a\\x1b[2J: b\\n; c"


def test_import_prints_a_book_and_tells_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "list.csv"
    file.write_text(LIST)
    assert run("import", str(file)) == 1
    done = capsys.readouterr()
    assert yaml.safe_load(done.out) == {
        "books": [{"currency": "USD", "rows": [{"gpu": "NVIDIA L4", "per_gpu_hour": 0.44}]}]
    }
    assert done.err.splitlines() == [
        "engineroom: line 3: per_gpu_hour: 'x' is not a number; expected digits such as 1234.56",
        "engineroom: form engineroom: 1 rows",
    ]
    output = tmp_path / "prices.yaml"
    file.write_text(LIST.replace("x,", "1.5,"))
    assert run("import", str(file), "--output", str(output)) == 0
    assert capsys.readouterr().out == ""
    assert run("check", str(output)) == 0
    with pytest.raises(ConfigError, match="there already"):
        run("import", str(file), "--output", str(output))
    with pytest.raises(ConfigError, match="cannot be written"):
        run("import", str(file), "--output", str(tmp_path / "no" / "where"))


def test_many_refusals_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "list.csv"
    file.write_text("gpu;per_gpu_hour\n" + "NVIDIA L4;1\n" * 100)
    assert run("import", str(file)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[20] == "engineroom: and 80 more lines that cannot be used"
    assert lines[-1] == "engineroom: there is nothing to write"


@pytest.mark.parametrize(("given", "sign"), [(None, None), (";", ";"), ("tab", "\t"), ("\\t", "\t")])
def test_delimiters(given: str | None, sign: str | None) -> None:
    assert prices.delimiter(argparse.Namespace(delimiter=given)) == sign
    with pytest.raises(ConfigError, match="one character"):
        prices.delimiter(argparse.Namespace(delimiter="ab"))
