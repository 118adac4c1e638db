"""What the settings of gRPC take and refuse."""

import pytest
from pydantic import ValidationError

from agent.sidecar.grpc.settings import GrpcSettings


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("http://triton:8001/", "http://triton:8001"),
        ("https://triton", "https://triton"),
        ("unix:/run/triton.sock", "unix:/run/triton.sock"),
        (None, None),
    ],
)
def test_the_engines_address(given: str | None, kept: str | None) -> None:
    assert GrpcSettings(upstream=given).upstream == kept


@pytest.mark.parametrize("given", ["triton:8001", "grpc://triton:8001", "http://triton:8001/v2", "dns:///triton"])
def test_other_addresses_are_refused_with_what_was_expected(given: str) -> None:
    with pytest.raises(ValidationError, match="http://host:port"):
        GrpcSettings(upstream=given)


@pytest.mark.parametrize(
    "given",
    [{"max_streams": 0}, {"stream_window_bytes": 1000}, {"stream_idle_seconds": 0}, {"upstream_idle_seconds": 0}],
)
def test_numbers_that_would_stop_everything_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        GrpcSettings(**given)
