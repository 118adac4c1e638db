"""The commands around the ledger: what they print, and what they answer."""

import sqlite3
from pathlib import Path

import anyio
import pytest

from agent.cli.ledger import add_to
from agent.core.ports import ConfigError
from agent.datafolder import DataFolder
from tests.support.ledger import T0, lived, opened
from tests.support.money import HandClock, Sidecar


def run(*arguments: str) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    add_to(parser.add_subparsers())
    options = parser.parse_args(["ledger", *arguments])
    status: int = options.handler(options)
    return status


async def _lived(folder: Path) -> None:
    async with await opened(folder / "ledger.sqlite") as ledger:
        await lived(ledger, HandClock(T0), 70, Sidecar())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    anyio.run(_lived, tmp_path)
    return tmp_path


def test_a_sound_ledger(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--data-dir", str(folder)) == 0
    assert capsys.readouterr().out == f"{folder}/ledger.sqlite: ok\n"
    assert run("repair", "--data-dir", str(folder)) == 0
    assert run("vacuum", "--data-dir", str(folder)) == 0
    assert "took away 0 places" in capsys.readouterr().out


def test_a_wrong_one_is_told_and_mended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sqlite3.connect(folder / "ledger.sqlite") as connection:
        connection.execute("DELETE FROM entries WHERE grain = 2")
    connection.close()
    assert run("check", "--data-dir", str(folder)) == 1
    assert "wrong: the days that begin" in capsys.readouterr().out
    assert run("vacuum", "--data-dir", str(folder)) == 1
    assert "repair` first" in capsys.readouterr().err
    assert run("repair", "--data-dir", str(folder)) == 0
    assert "made the day that begins at" in capsys.readouterr().out
    assert run("check", "--data-dir", str(folder)) == 0


def test_only_check_works_beside_an_agent(folder: Path) -> None:
    with DataFolder(folder):
        assert run("check", "--data-dir", str(folder)) == 0
        for what in ("repair", "vacuum"):
            with pytest.raises(ConfigError, match="in use by another agent"):
                run(what, "--data-dir", str(folder))


def test_a_folder_without_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no ledger in"):
        run("check", "--data-dir", str(tmp_path))
    assert list(tmp_path.iterdir()) == []
