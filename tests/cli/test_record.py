"""The command line of `engineroom record`; what it records is tested in tests/collect/gpu/test_record.py."""

import argparse

import pytest

from agent.cli import record
from agent.core.ports import ConfigError
from agent.demo.gpus import machine, nvml
from agent.demo.gpus.model import NodeSim


@pytest.fixture
def options():
    parser = argparse.ArgumentParser()
    record.add_to(parser.add_subparsers())
    return parser.parse_args


@pytest.fixture(autouse=True)
def node():
    nvml.install(NodeSim(machine.load("rtx4080sx2")))
    yield
    nvml.uninstall()


def test_a_file_is_written_and_named(options, tmp_path, capsys):
    file = tmp_path / "lab-7.json"
    assert record.run(options(["record", "gpu", str(file)])) == 0
    assert machine.load(str(file)).name == "lab-7"
    assert "2 GPUs" in capsys.readouterr().err


def test_who_looks_sees_how_far_it_is(options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert record.run(options(["record", "gpu", str(tmp_path / "x.json")])) == 0
    said = capsys.readouterr().err
    assert "GPU 1 of 2: nvmlDeviceGetUUID" in said
    assert "GPU 2 of 2: nvmlDeviceGetFieldValues" in said


def test_a_file_that_cannot_be_written(options, tmp_path):
    with pytest.raises(ConfigError, match="cannot be written"):
        record.run(options(["record", "gpu", str(tmp_path / "absent" / "x.json")]))


def test_what_to_record_must_be_said(options, capsys):
    with pytest.raises(SystemExit):
        options(["record"])
    assert "WHAT" in capsys.readouterr().err
