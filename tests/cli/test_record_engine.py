"""The command line of `engineroom record engine`; what it records is tested in tests/collect/test_record_engine.py."""

from pathlib import Path

import anyio.to_thread

from agent.cli.record_engine import lines
from agent.collect.engines.record import Recorded
from agent.engines.registry import BY_KIND
from tests.support.command_line import Ended, engineroom, engineroom_beside
from tests.support.http import answer, told_server

PAGE = b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{model_name="m",pod="secret"} 1\n'


async def beside(*arguments: object) -> Ended:
    return await anyio.to_thread.run_sync(lambda: engineroom("record", "engine", *arguments))


async def test_a_capture_is_written_and_what_is_next_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "vllm" / "0"
    async with told_server({"/metrics": answer(PAGE)}) as server:
        ended = await engineroom_beside("record", "engine", server.url, folder)
    assert ended.status == 0
    kept = PAGE.replace(b'"secret"', b'"redacted-1"')
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"metrics.prom": kept}
    said = ended.err.splitlines()
    assert said[0] == "vLLM of unknown version: m"
    assert said[1:3] == [f"{folder}: metrics.prom; 1 series", "values replaced in labels: pod"]
    assert "UPDATE_GOLDENS=1" in said[-1]


async def test_nothing_is_overwritten_and_the_engine_is_not_even_asked(tmp_path: Path) -> None:
    (tmp_path / "metrics.prom").write_text("mine")
    async with told_server({"/metrics": answer(PAGE)}) as server:
        ended = await beside(server.url, tmp_path)
        assert server.asked == []
    assert ended.status == 2
    assert "exists already: name a new folder" in ended.err
    assert (tmp_path / "metrics.prom").read_text() == "mine"
    assert (await beside(server.url, tmp_path / "metrics.prom")).status == 2


async def test_mistakes_are_said_with_what_to_do(tmp_path: Path) -> None:
    async with told_server({"/metrics": answer(b"up 1\n")}) as server:
        url = server.url
        for arguments, said in (
            ((url,), "engineroom: URL: "),
            ((f"{url}/metrics",), "expected the engine's base address"),
            (("localhost:8000",), "expected an address such as"),
            ((url, "--kind", "vlm"), "--kind: expected one of auto"),
            ((url, "--timeout", "0"), "--timeout: expected seconds above 0"),
            ((url, "--token-file", tmp_path / "none"), "cannot be read"),
        ):
            ended = await beside(arguments[0], tmp_path / "new", *arguments[1:])
            assert (ended.status, said in ended.err) == (2, True), ended.err
            assert "Traceback" not in ended.err
    gone = await beside(url, tmp_path / "new")
    assert "nothing listens" in gone.err
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = engineroom("record", "engine", "http://127.0.0.1:1", tmp_path / "file" / "below")
    assert ended.status == 2


def test_what_is_not_in_a_capture_is_told() -> None:
    found = Recorded(
        engine=BY_KIND["vllm"], version="1\x1b", models=(), series=0, files={}, redacted=(), notes=("no page",)
    )
    assert next(lines(found, Path("x"))) == "vLLM 1\x1b: no model"
    assert "note: no page" in lines(found, Path("x"))
