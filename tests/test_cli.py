import json
import logging
from pathlib import Path

import pytest
import structlog

from agent import __version__
from agent.cli.logs import set_up_logs
from agent.cli.main import main, parser


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    for command in ("run", "sidecar", "demo", "check", "record", "spool", "dlq"):
        assert f"\n    {command} " in text


@pytest.mark.parametrize("command", ["run", "sidecar", "demo", "check", "record", "spool", "dlq"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        parser().parse_args([command, "--help"])
    assert done.value.code == 0
    assert len(capsys.readouterr().out) > 150


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"engineroom {__version__}\n"


def test_a_wrong_setting_is_told_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "engineroom.yaml"
    file.write_text("sidecar: {upstream: nonsense}\nrules: {interval_seconds: -1}\n")
    assert main(["check", str(file)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "sidecar.upstream: expected http://host:port" in told[0]
    assert "rules.interval_seconds" in told[1]


def test_check_says_what_the_settings_lead_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "engineroom.yaml"
    file.write_text("{}")
    assert main(["check", str(file)]) == 0
    assert "prices: none, so GPU time is counted and not priced" in capsys.readouterr().out


def test_a_rule_that_looks_too_far_back_is_refused_with_the_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules.yaml").write_text("groups: [{name: g, rules: [{record: a:b, expr: 'rate(x[2h])'}]}]")
    file = tmp_path / "engineroom.yaml"
    file.write_text("rules: {files: [rules.yaml]}\n")
    assert main(["check", str(file)]) == 2
    assert "storage.history_seconds" in capsys.readouterr().err


def test_record_without_a_driver_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["record", "gpu", str(tmp_path / "machine.json")]) == 2
    assert "there is no usable NVIDIA driver on this machine" in capsys.readouterr().err


def test_logs_are_one_event_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logs("json", "info")
    try:
        structlog.get_logger().info("gpu_hung", gpu="GPU-1")
        structlog.get_logger().debug("not_shown")
        line = json.loads(capsys.readouterr().err)
        assert (line["event"], line["gpu"], line["level"]) == ("gpu_hung", "GPU-1", "info")
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers.clear()
