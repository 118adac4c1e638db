import pytest
from pydantic import ValidationError

from agent.sidecar.gateway.settings import BalanceSettings, EngineEntry


def test_the_longest_time_out_is_not_below_the_first() -> None:
    with pytest.raises(ValidationError, match=r"eject_max_seconds \(5\) must not be below eject_seconds \(10\)"):
        BalanceSettings(eject_seconds=10, eject_max_seconds=5)


@pytest.mark.parametrize("header", ["", "x session", "x:y", "é"])
def test_a_header_must_be_a_token(header: str) -> None:
    with pytest.raises(ValidationError, match="sticky_header"):
        BalanceSettings(sticky_header=header)


def test_a_headers_name_is_told_in_the_form_that_the_request_path_compares() -> None:
    assert BalanceSettings(sticky_header="X-Session-Id").sticky_header == "x-session-id"


@pytest.mark.parametrize("path", ["", "health", "/a b", "/a\r\nx: y"])
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="check_path"):
        BalanceSettings(check_path=path)


def test_an_engine_serves_every_model_unless_told() -> None:
    assert EngineEntry(url="http://a:8000").models == ()
