from pathlib import Path

import pytest

from agent.api.doors import doors_of
from agent.api.settings import ApiSettings
from agent.core.ports import ConfigError
from agent.doors.identity import ALL_SCOPES, Denied
from tests.support.callers import settings, token_of
from tests.support.credentials import bearer


def test_on_loopback_without_credentials_everybody_may_do_everything():
    doors = doors_of(ApiSettings())
    assert doors.identify(None, ()).scopes == ALL_SCOPES
    assert doors.requests.admit("127.0.0.1", 1) is None


def test_elsewhere_without_credentials_nobody_may_do_anything():
    # Loading refuses such a file; a program that makes settings by itself must not open the doors by that.
    with pytest.raises(Denied):
        doors_of(ApiSettings(listen="0.0.0.0:9440")).identify(None, ())


def test_with_credentials_they_are_needed_on_loopback_too(tmp_path: Path):
    doors = doors_of(settings(tmp_path))
    with pytest.raises(Denied):
        doors.identify(None, ())
    assert doors.identify(bearer(token_of("acme")), ()).tenant == "acme"


def test_limits_come_from_the_settings(tmp_path: Path):
    limits = {"requests_per_second": 0.5, "burst": 2, "failures_per_minute": 6, "failures_burst": 1}
    doors = doors_of(settings(tmp_path, limits=limits))
    assert [doors.requests.admit("a", 1) for _ in range(3)] == [None, None, 2.0]
    assert [doors.failures.admit("a", 1) for _ in range(2)] == [None, 10.0]


def test_a_missing_token_file_names_its_setting(tmp_path: Path):
    ours = settings(tmp_path)
    (tmp_path / "cost").unlink()
    with pytest.raises(ConfigError, match=r"api\.auth\.tokens"):
        doors_of(ours)
