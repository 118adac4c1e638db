"""Addresses of Alertmanagers: what is taken, and what the message says about the rest."""

import pytest
from pydantic import ValidationError

from agent.delivery.settings import AlertsDeliverySettings


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://am:9093/", "http://am:9093"),
        ("https://am.example/prefix", "https://am.example/prefix"),
        ("http://[::1]:9093", "http://[::1]:9093"),
    ],
)
def test_addresses(given, kept):
    assert AlertsDeliverySettings(alertmanagers=(given,)).alertmanagers == (kept,)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("am:9093",), "not an address of an Alertmanager"),
        (("http://",), "not an address"),
        (("http://am:99999",), "not a URL"),
        (("http://user:secret@am:9093",), "says too much"),
        (("http://am:9093/api/v2/alerts",), "leave out /api/v2/alerts"),
        (("http://am:9093", "http://am:9093/"), "named twice"),
    ],
)
def test_refused_addresses(given, says):
    with pytest.raises(ValidationError, match=says) as caught:
        AlertsDeliverySettings(alertmanagers=given)
    assert "secret" not in str(caught.value.errors()[0]["msg"])


def test_unknown_settings_are_refused():
    with pytest.raises(ValidationError, match="alertmanager"):
        AlertsDeliverySettings(alertmanager=("http://am:9093",))
