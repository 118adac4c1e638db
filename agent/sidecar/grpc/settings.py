"""Settings of gRPC through the sidecar: `sidecar.grpc`."""

from pydantic import Field, field_validator

from agent.settings import Section
from agent.sidecar.sockets.addresses import parse_upstream


class GrpcSettings(Section):
    """gRPC calls, taken at the same address as HTTP/1.1: with TLS by ALPN, without by the preface of HTTP/2."""

    upstream: str | None = Field(
        None,
        description="The engine's address for gRPC, http://host:port (without TLS), https://host:port or unix:/path. "
        "Triton has one of its own, port 8001. Default: `upstream`.",
    )
    max_streams: int = Field(
        128, ge=1, le=10_000, description="Most calls at once on one connection of a client; further ones wait there."
    )
    stream_window_bytes: int = Field(
        256 * 1024,
        ge=64 * 1024,
        le=16 * 2**20,
        description="Most bytes of one call in one direction that are on their way through here; the sender waits "
        "until the receiver has taken some.",
    )
    stream_idle_seconds: float = Field(
        3600.0,
        gt=0,
        description="How long a call that its client keeps open for further messages may be silent in both "
        "directions once the last message was answered. An unanswered message has `request_timeout_seconds`.",
    )
    upstream_idle_seconds: float = Field(
        300.0, gt=0, description="How long a connection to the engine is kept without a call."
    )

    @field_validator("upstream")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parse_upstream(value)
        return value.rstrip("/")
