import subprocess
import sys
from pathlib import Path

import pytest

from agent.config import ConfigErrors, Settings, load


def write(folder: Path, text: str) -> Path:
    file = folder / "engineroom.yaml"
    file.write_text(text)
    return file


def test_no_configuration_at_all_works() -> None:
    assert load(None, {}) == Settings()


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "rules: {interval_seconds: 5}\n")
    environment = {
        "ENGINEROOM__RULES__INTERVAL_SECONDS": "2",
        "ENGINEROOM__API__LISTEN": "127.0.0.1:1",
        "ENGINEROOM__ENGINES__TARGETS": "[{url: 'http://127.0.0.1:8000'}]",
        "HOME": "/",
    }
    settings = load(file, environment)
    assert settings.rules.interval_seconds == 2
    assert settings.api.listen == "127.0.0.1:1"
    assert settings.engines.targets[0].url == "http://127.0.0.1:8000"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus: {interval: 1}", r"gpus\.interval: no such key; known here: .*interval_seconds"),
        ("gpuz: {}", r"gpuz: no such key; known here: .*gpus"),
        ("gpus: {interval_seconds: 0}", r"gpus\.interval_seconds: .*greater than or equal to 0\.2 \(got 0\)"),
        ("api: {listen: here}", r"api\.listen: expected host:port such as 127\.0\.0\.1:9440, got 'here'"),
        ("api: {listen: '127.0.0.1:1', probes_listen: '127.0.0.1:1'}", r"api\.listen and api\.probes_listen are both"),
        ("engines: {targets: [{name: a}]}", r"engines\.targets\.0\.url: field required"),
        ("engines: {targets: [{url: 'x', colour: 1}]}", r"engines\.targets\.0\.colour: no such key"),
        ("[1, 2]", r"must be a mapping of sections"),
        ("a: [", r"is not valid YAML"),
        ("api: {}\napi: {}", r"the key 'api' is written twice"),
        ("exporters: {alertmanagers: ['ftp://x']}", r"exporters\.alertmanagers\.0: .*is not an address"),
    ],
)
def test_mistakes_are_named_with_their_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigErrors, match=said):
        load(write(tmp_path, text), {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("api: {listen: '0.0.0.0:9440'}", r"api\.listen: .*api\.auth\.allow_unauthenticated: true"),
        ("api: {listen: 'node-a:9440', tls: {certificate_file: a, key_file: b}}", r"api\.listen: "),
        ("api: {listen: '[::]:9440'}", r"api\.listen: "),
        (
            "api: {auth: {certificates: [{name: a, scopes: [metrics]}]}}",
            r"api\.auth\.certificates: .*api\.tls\.client_ca_file",
        ),
    ],
)
def test_a_listener_others_reach_needs_credentials(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigErrors, match=said):
        load(write(tmp_path, text), {})


@pytest.mark.parametrize(
    "text",
    [
        "api: {listen: 'localhost:9440', probes_listen: '0.0.0.0:9441'}",
        "api: {listen: '127.0.0.7:9440'}",
        "api: {listen: '[::1]:9440'}",
        "api: {listen: '0.0.0.0:9440', auth: {allow_unauthenticated: true}}",
        "api: {listen: '0.0.0.0:9440', auth: {tokens: [{name: a, file: token, scopes: [metrics]}]}}",
    ],
)
def test_with_credentials_or_plain_words_it_may_listen_anywhere(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text), {}).api.probes_listen


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(write(tmp_path, "gpus: {a: 1}\nrules: {b: 2}\n"), {})
    assert [error.key for error in caught.value.errors] == ["gpus.a", "rules.b"]


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors, match="cannot be read: No such file or directory"):
        load(tmp_path / "missing.yaml", {})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigErrors, match="not UTF-8"):
        load(tmp_path / "bytes.yaml", {})


def test_a_value_that_may_be_secret_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigErrors) as caught:
        load(write(tmp_path, "engines: {targets: [{url: 'http://a', token_file: [hunter2]}]}"), {})
    assert "hunter2" not in str(caught.value)


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    assert load(write(tmp_path, "prices: {file: prices.yaml}"), {}).prices.file == tmp_path / "prices.yaml"


def test_reading_settings_loads_nothing_heavy() -> None:
    """Every command reads them, also those that answer at once."""
    heavy = ("cryptography", "jwt", "fastapi", "uvicorn", "aiohttp", "sqlalchemy", "numpy")
    said = subprocess.run(
        [sys.executable, "-c", "import agent.config, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(heavy) & set(said.stdout.split())
