"""The limits that hold when nobody says otherwise."""

from agent.sidecar.crowd.settings import CrowdSettings


def test_what_clients_behind_one_gateway_share_is_not_limited() -> None:
    settings = CrowdSettings()
    assert (settings.max_connections_per_source, settings.requests_per_second) == (None, None)
    assert settings.max_body_bytes == 1 << 30
    assert CrowdSettings(max_body_bytes=None).max_body_bytes is None
