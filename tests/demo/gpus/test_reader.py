"""The simulated reader's own part: its options. What it answers is tested with the supervisor."""

import pytest

from agent.demo.gpus import machine
from agent.demo.gpus.reader import main


def test_an_unknown_machine_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--fd", "0", "--machine", "b300"])
    assert end.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert ", ".join(machine.names()) in said
