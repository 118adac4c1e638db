"""What the settings of sockets refuse."""

import pytest
from pydantic import ValidationError

from agent.sidecar.sockets.settings import DialSettings, ListenSettings


def test_modes_are_octal() -> None:
    assert ListenSettings(unix_mode="0600").mode == 0o600
    assert ListenSettings(unix_mode="777").mode == 0o777
    for wrong in ("0800", "rw", "7777", "60"):
        with pytest.raises(ValidationError):
            ListenSettings(unix_mode=wrong)


def test_hosts_are_checked() -> None:
    assert DialSettings(host="ollama.local:11434").host == "ollama.local:11434"
    with pytest.raises(ValidationError, match="expected auto, keep, engine, or a host"):
        DialSettings(host="a\r\nx: y")
