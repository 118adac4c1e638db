"""Settings of what the request address takes: how many clients, how slow, how large. `sidecar.limits`."""

from pydantic import Field

from agent.settings import Section


class CrowdSettings(Section):
    """What the request address takes. A source is an IPv4 address, or the first 64 bits of an IPv6 one."""

    max_connections: int = Field(
        10_000,
        ge=1,
        le=10**6,
        description="Clients' connections open at once; more get 503. Each may need a second file descriptor for its "
        "connection to the engine, so it is lowered where the process may not open twice as many.",
    )
    max_connections_per_source: int | None = Field(
        None,
        ge=1,
        le=10**6,
        description="Of these, from one source. Default: no limit, because all clients behind a gateway, a Service or "
        "a NAT are one source. Clients on a unix socket have no address and are not limited by it.",
    )
    requests_per_second: float | None = Field(
        None,
        gt=0,
        le=1e6,
        description="Requests a second that one source may send over a long time; more get 429. Default: no limit. "
        "What a tenant may do belongs in its quota; this is for addresses that send far more than any client should.",
    )
    burst: int = Field(
        200, ge=1, le=10**6, description="With `requests_per_second`: requests that it may send at once after a pause."
    )
    head_timeout_seconds: float = Field(
        10.0, gt=0, le=600, description="Longest wait for the whole head of a request, from its first byte."
    )
    idle_seconds: float = Field(
        75.0, gt=0, le=86400, description="How long a connection may stay open without a request."
    )
    crowded_idle_seconds: float = Field(
        5.0,
        gt=0,
        le=86400,
        description="The same while more than three quarters of `max_connections` are open, to make room.",
    )
    min_body_bytes_per_second: int = Field(
        500,
        ge=0,
        le=10**9,
        description="Slowest a request's body may come, averaged over each `body_grace_seconds`; 0: as slow as it "
        "likes. Time in which the sidecar itself does not read, because the engine takes no more, does not count.",
    )
    body_grace_seconds: float = Field(
        20.0, gt=0, le=3600, description="Length of the spans over which a body's speed is averaged."
    )
    max_body_bytes: int | None = Field(
        2**30, ge=1024, description="Largest body of a request; larger ones get 413. null: no limit."
    )
    max_pipelined: int = Field(
        64, ge=1, le=10_000, description="Requests that may wait on one connection for those before them."
    )
