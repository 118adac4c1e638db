"""Nobody's body is changed unless that was asked for."""

from agent.sidecar.usage.settings import UsageSettings


def test_off_unless_asked_for() -> None:
    assert UsageSettings().ask == "never"
    assert UsageSettings(ask="continuous").max_body_bytes == 1 << 20
