"""Ollama: what it says of loaded models, its command lines, and a real one, read live."""

import json
from math import isfinite
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines import llamacpp, ollama
from agent.engines.contract import About, Process, Recognised
from tests.support.engine_pages import about_of, read_page
from tests.support.ollama import MODEL
from tests.support.ollama import ollama as real_ollama

ENGINE = ollama.ENGINE


def memory(body: bytes) -> dict[str, float | None]:
    return {reading.model: reading.model_memory_bytes for reading in read_page(ENGINE, None, {"/api/ps": body})}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"models": []}', {}),
        (b'{"models": null}', {}),
        (b"{}", {}),
        (b'{"models": [{"name": "a:8b", "size": 9, "size_vram": 5137025024}]}', {"a:8b": 5137025024}),
        (b'{"models": [{"name": "a", "size_vram": 0}]}', {"a": 0}),  # on the CPU: a fact
        (b'{"models": [{"name": "a"}]}', {"a": None}),  # loaded, and nobody says how large
        (b'{"models": [{"name": "a", "size_vram": null}]}', {"a": None}),
        (b'{"models": [{"name": "a", "size_vram": -1}]}', {"a": None}),
        (b'{"models": [{"name": "a", "size_vram": 2}, {"name": "b", "size_vram": 3}]}', {"a": 2, "b": 3}),
        (b'{"models": [{"name": "a", "size_vram": 2}, {"name": "a", "size_vram": 3}]}', {"a": 3}),  # once loaded
        (b'{"models": [{"name": "a", "size_vram": -2}, {"name": "a", "size_vram": 3}]}', {"a": 3}),
        (b'{"models": [{"name": "", "size_vram": 2}]}', {}),
        (b'{"models": [{"size_vram": 2}]}', {}),
        (b'{"models": [{"name": "a", "size_vram": 1e300}]}', {"a": 1e300}),
    ],
)
def test_memory_of_loaded_models(body: bytes, expected: dict[str, float | None]) -> None:
    assert memory(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"Ollama is running",
        b"[]",
        b"null",
        b"3",
        b'{"models": {"a": 1}}',
        b'{"models": ["a"]}',
        b'{"models": [{"name": 3}]}',
        b'{"models": [{"name": "a", "size_vram": "large"}]}',
        b'{"models": [{"name": "a", "size_vram": NaN}]}',
        b'{"models": [{"name": "a", "size_vram": 1e999}]}',
        b'{"models": [{"name": "a"}',
        b'{"error": "busy"}',
    ],
)
def test_bodies_of_another_shape_say_nothing(body: bytes) -> None:
    assert memory(body) == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MODEL_ENTRY = st.fixed_dictionaries({}, optional={"name": JSON, "size_vram": JSON, "remote_host": JSON})


@given(st.lists(MODEL_ENTRY, max_size=4) | JSON)
def test_whatever_it_lists_is_a_memory_of_a_named_model_or_nothing(models: object) -> None:
    for name, size in memory(json.dumps({"models": models}).encode()).items():
        assert name
        assert size is None or (isfinite(size) and size >= 0)


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ('"name": "gpt-oss:120b-cloud", "size_vram": 0', False),
        ('"name": "glm:cloud", "size_vram": 0', False),
        ('"name": "glm:Cloud"', False),
        ('"name": "plain:1b", "remote_host": "https://example.invalid"', False),
        ('"name": "plain:1b", "remote_host": ""', True),
        ('"name": "cloud:1b"', True),
        ('"name": "my-cloud"', True),
        ('"name": "registry.example:5000/team/my-cloud"', True),
    ],
)
def test_models_in_the_cloud_are_not_loaded_here(model: str, shown: bool) -> None:
    assert bool(memory(f'{{"models": [{{{model}}}]}}'.encode())) is shown


def test_memory_is_all_that_it_tells() -> None:
    (reading,) = read_page(ENGINE, None, {"/api/ps": b'{"models": [{"name": "a", "size_vram": 7, "size": 9}]}'})
    assert reading.kind == "ollama"
    measured = set(reading.__struct_fields__) - {"engine", "kind", "url", "model", "read_at_ns", "model_memory_bytes"}
    assert [name for name in measured if getattr(reading, name) is not None] == []


def test_nothing_is_loaded_and_nothing_answered() -> None:
    assert read_page(ENGINE) == []
    assert about_of(ENGINE, {}) == About()


@pytest.mark.parametrize(
    ("told", "parameters"),
    [
        ("8.0B", 8e9), ("124K", 124e3), ("137M", 137e6), ("1.1T", 1.1e12), ("671b", 671e9),
        ("", None), ("B", None), ("8", None), ("-8B", None), ("8.0.0B", None), ("8x7B", None), ("0B", None),
        ("nanB", None), ("²B", None), ("9" * 400 + "B", None),
    ],
)  # fmt: skip
def test_the_size_of_a_model(told: str, parameters: float | None) -> None:
    body = json.dumps({"models": [{"name": "llama3.1:latest", "details": {"parameter_size": told}}]}).encode()
    shapes = about_of(ENGINE, {"/api/ps": body}).shapes
    assert {name: shape.active_parameters for name, shape in shapes.items()} == (
        {} if parameters is None else {"llama3.1:latest": parameters, "llama3.1": parameters}
    )


def test_a_model_in_the_cloud_has_no_size_here() -> None:
    body = b'{"models": [{"name": "a:cloud", "details": {"parameter_size": "8B"}}, {"name": "b"}, {"details": null}]}'
    assert about_of(ENGINE, {"/api/ps": body}).shapes == {}


@pytest.mark.parametrize(
    ("body", "version"),
    [(b'{"version": "0.33.0-rc2"}', "0.33.0-rc2"), (b'{"version": ""}', None), (b"{}", None), (b"[]", None)],
)
def test_version(body: bytes, version: str | None) -> None:
    assert about_of(ENGINE, {"/api/version": body}).version == version


def test_only_what_neither_loads_nor_changes_anything_is_asked() -> None:
    assert ENGINE.paths == {"/", "/api/ps", "/api/version"}
    assert ENGINE.metrics_paths == ()  # every scrape would be a 404 in its log
    assert ENGINE.health.ready in ENGINE.state_paths  # nothing is asked twice: each request is a line there


@pytest.mark.parametrize(
    ("host", "port"),
    [
        (None, None),
        ("", None),
        (" ", None),
        ("0.0.0.0", 11434),
        ("0.0.0.0:8080", 8080),
        (":8080", 8080),
        ("example.org", 11434),
        ("http://0.0.0.0", 80),
        ("http://0.0.0.0:11435/", 11435),
        ("https://example.org", 443),
        ("[::]:99", 99),
        ("[::1]", 11434),
        ("::1", 11434),
        ("'0.0.0.0:7'", 7),
        ("0.0.0.0:99999", 11434),
        ("0.0.0.0:port", 11434),
    ],
)
def test_port_as_ollama_reads_its_environment(host: str | None, port: int | None) -> None:
    environ = {} if host is None else {"OLLAMA_HOST": host}
    found = ollama.recognise(Process(pid=1, name="ollama", argv=("/usr/bin/ollama", "serve"), environ=environ))
    assert found == Recognised(port=port)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("ollama start", Recognised()),
        ("/usr/bin/ollama runner --model /m/blobs/sha256-1 --ctx-size 4096 --port 41001", Recognised(part="worker")),
        ("ollama runner --mlx-engine --model a --port 41001", Recognised(part="worker")),
        ("ollama run llama3.2", None),
        ("ollama pull llama3.2", None),
        ("ollama", None),
        ("", None),
        ("vim ollama serve", None),
        ("/opt/ollama-proxy serve", None),
    ],
)
def test_command_lines(argv: str, expected: Recognised | None) -> None:
    assert ollama.recognise(Process(pid=1, name="ollama", argv=tuple(argv.split()))) == expected


@pytest.mark.component("ollama")
def test_real_ollama_is_read_and_loads_nothing_for_us(tmp_path: Path) -> None:
    with real_ollama(tmp_path) as server:

        def ask() -> dict[str, bytes]:
            paths = {*ENGINE.state_paths, *ENGINE.about_paths}
            return {path: server.get(path) for path in paths}

        for path in ENGINE.paths:
            server.get(path)
        answers = ask()
        assert read_page(ENGINE, None, answers) == []  # our questions loaded nothing
        assert about_of(ENGINE, answers).version
        server.load()
        (reading,) = read_page(ENGINE, None, ask())
        assert reading.model == MODEL
        assert reading.model_memory_bytes == 0  # there is no GPU here, and it says so
        assert [recognised(child) for child in children(server.pid)] == [Recognised(part="worker")]
        assert recognised(server.pid) == Recognised(port=int(server.url.rpartition(":")[2]))
        server.unload()  # it answers before its child has ended
        end = monotonic() + 10
        while read_page(ENGINE, None, ask()):
            assert monotonic() < end


def recognised(pid: int) -> Recognised | None:
    folder = Path("/proc") / str(pid)
    argv = tuple((folder / "cmdline").read_text().rstrip("\0").split("\0"))
    variables = dict(entry.partition("=")[::2] for entry in (folder / "environ").read_text().split("\0") if entry)
    name = (folder / "comm").read_text().strip()
    process = Process(pid=pid, name=name, argv=argv, environ=variables)
    return ollama.recognise(process) or llamacpp.recognise(process)  # from 0.30 on, its children are llama-servers


def children(pid: int) -> list[int]:
    threads = (Path("/proc") / str(pid) / "task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
