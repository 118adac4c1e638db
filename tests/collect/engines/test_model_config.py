"""A /proc made of folders, and one process of this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.collect.engines.model_config import MOST_BYTES, model_shape, named_model

CONFIG = json.dumps(
    {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The file system of process 7."""
    found = tmp_path / "proc" / "7" / "root"
    found.mkdir(parents=True)
    return found


def start(root: Path, *argv: str, cwd: str = "/srv", **environ: str) -> None:
    process = root.parent
    (process / "cmdline").write_bytes("\0".join(argv).encode() + b"\0")
    (process / "environ").write_bytes("\0".join(f"{k}={v}" for k, v in environ.items()).encode() + b"\0")
    (process / "cwd").symlink_to(cwd)


def put(file: Path, text: str = CONFIG) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def told_by(root: Path) -> str | None:
    shape = model_shape([6, 7], root.parent.parent)
    return None if shape is None else shape.told_by


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("python -m vllm.entrypoints.openai.api_server --model /models/a --port 1", "/models/a"),
        ("/usr/bin/python3 /usr/bin/vllm serve org/name --port 1", "org/name"),
        ("vllm serve --port 1", None),
        ("vllm serve a --model b", "b"),
        ("python -m sglang.launch_server --model-path=/models/a", "/models/a"),
        ("text-generation-launcher --model-id org/name", "org/name"),
        ("ollama serve", None),
        ("nginx", None),
        ("", None),
    ],
)
def test_what_a_command_line_names(line: str, model: str | None):
    assert named_model(line.split(" ")) == model


def test_a_folder(root: Path):
    put(root / "models/a/config.json")
    start(root, "vllm", "serve", "/models/a")
    shape = model_shape([6, 7], root.parent.parent)
    assert shape is not None
    assert (shape.source, shape.told_by) == ("model_folder", "/models/a/config.json")
    assert shape.kv_bytes_per_token == 2 * 2 * 64 * 2


def test_a_folder_below_the_one_it_was_started_in(root: Path):
    put(root / "srv/models/a/config.json")
    start(root, "vllm", "serve", "./models/a")
    assert told_by(root) == "/srv/./models/a/config.json"


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HOME": "/home/x"}, "home/x/.cache/huggingface/hub"),
        ({}, "root/.cache/huggingface/hub"),
        ({"HF_HOME": "/data/hf"}, "data/hf/hub"),
        ({"HF_HUB_CACHE": "/hub"}, "hub"),
    ],
)
def test_the_cache_of_the_hub(root: Path, environ: dict[str, str], cache: str):
    folder = root / cache / "models--org--name"
    put(folder / "blobs/123")
    (folder / "snapshots/abc").mkdir(parents=True)
    (folder / "snapshots/abc/config.json").symlink_to("../../blobs/123")
    start(root, "vllm", "serve", "org/name", **environ)
    told = told_by(root)
    assert told is not None
    assert told.replace("//", "/") == f"/{cache}/models--org--name/snapshots/abc/config.json"


def test_links_stay_in_the_file_system_of_the_engine(root: Path, tmp_path: Path):
    outside = tmp_path / "config.json"
    put(outside)
    put(root / "real/config.json")
    (root / "models").mkdir()
    for name, target in (("a", str(tmp_path)), ("b", "../../../../../.." + str(tmp_path)), ("c", "/real")):
        (root / "models" / name).symlink_to(target)
    start(root, "vllm", "serve", "/models/a")
    assert told_by(root) is None
    for name, expected in (("b", None), ("c", "/models/c/config.json"), ("../../../models/c", True)):
        (root.parent / "cwd").unlink()
        start(root, "vllm", "serve", f"/models/{name}")
        assert bool(told_by(root)) is bool(expected)


def test_links_in_a_circle(root: Path):
    (root / "models").symlink_to("/other")
    (root / "other").symlink_to("models")
    start(root, "vllm", "serve", "/models/a")
    assert told_by(root) is None


def test_what_is_no_file_is_not_read(root: Path):
    (root / "models/a").mkdir(parents=True)
    os.mkfifo(root / "models/a/config.json")  # opening it to read would wait for a writer
    start(root, "vllm", "serve", "/models/a")
    assert told_by(root) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{" * 5000, "1" * 5000, " " * (MOST_BYTES + 1), '{"hidden_size": "x"}']
)
def test_what_is_no_config(root: Path, text: str):
    put(root / "models/a/config.json", text)
    start(root, "vllm", "serve", "/models/a")
    assert told_by(root) is None


def test_nothing_is_there(root: Path):
    start(root, "vllm", "serve", "/models/a")
    assert told_by(root) is None
    assert model_shape([], root.parent.parent) is None
    (root.parent / "cmdline").write_bytes(b"vllm\0serve\0/a\xff\0")
    assert told_by(root) is None


def test_a_process_of_this_machine(tmp_path: Path):
    put(tmp_path / "config.json")
    waits = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", waits, "--model", str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        shape = model_shape([process.pid])
        process.communicate()
    assert shape is not None
    assert shape.told_by == f"{tmp_path}/config.json"
