"""Settings of `engineroom sidecar`: the section `sidecar` of the configuration file."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from agent.doors.settings import AuthSettings, ClientTlsSettings, LimitSettings, TlsSettings
from agent.settings import ConfigPath, Section
from agent.sidecar.crowd.settings import CrowdSettings
from agent.sidecar.gateway.settings import BalanceSettings, EngineEntry
from agent.sidecar.grpc.settings import GrpcSettings
from agent.sidecar.quota.settings import QuotasSettings
from agent.sidecar.sockets.addresses import parse_listen, parse_upstream
from agent.sidecar.sockets.settings import DialSettings, ListenSettings
from agent.sidecar.tenancy.settings import HeaderName, TenancySettings
from agent.sidecar.usage.settings import UsageSettings
from agent.spool.settings import SpoolSettings


def split_url(text: str) -> tuple[bool, str, int]:
    """`http://host:port` -> (TLS?, host, port). Raises ValueError with what was expected."""
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.hostname or url.path not in ("", "/") or url.query:
        raise ValueError(f"expected http://host:port without a path, such as http://127.0.0.1:8000, got {text!r}")
    try:
        url.hostname.encode("idna")
    except UnicodeError as error:
        raise ValueError(f"{url.hostname!r} cannot be the name of a host: {error}") from error
    tls = url.scheme == "https"
    return tls, url.hostname, url.port or (443 if tls else 80)


class SidecarSettings(Section):
    """The process on the request path: where it listens, what it forwards to, where its records go."""

    listen: str = Field(
        "127.0.0.1:9480", description="Address that clients send their requests to: host:port, or unix:/path."
    )
    tls: TlsSettings = Field(default_factory=TlsSettings, description="TLS of that address.")
    sockets: ListenSettings = Field(default_factory=ListenSettings, description="Details of listening there.")
    limits: CrowdSettings = Field(
        default_factory=CrowdSettings, description="What clients may take in connections, size, rate and time."
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the address (SO_REUSEPORT). With several, a parent starts them, replaces "
        "those that die and has the admin address.",
    )
    admin_listen: str = Field(
        "127.0.0.1:9481",
        description="Address of the sidecar's own /metrics, /livez and /readyz: host:port, or unix:/path.",
    )
    admin_auth: AuthSettings = Field(
        default_factory=AuthSettings,
        description="Who may read the metrics (scope `metrics`) and replay dead letters (scope `admin`) there.",
    )
    admin_tls: TlsSettings = Field(default_factory=TlsSettings, description="TLS of the admin address.")
    admin_limits: LimitSettings = Field(
        default_factory=LimitSettings, description="What the admin address takes in size, rate and time."
    )
    upstream: str = Field(
        "http://127.0.0.1:8000", description="The engine: http://host:port, https://host:port, or unix:/path."
    )
    upstreams: tuple[EngineEntry, ...] = Field(
        (),
        description="Several engines, instead of `upstream`: each request goes to the one with the fewest under way.",
    )
    balance: BalanceSettings = Field(default_factory=BalanceSettings, description="How one of several is chosen.")
    dial: DialSettings = Field(default_factory=DialSettings, description="How engines are connected to.")
    grpc: GrpcSettings = Field(default_factory=GrpcSettings, description="gRPC, taken at the same address.")
    usage: UsageSettings = Field(
        default_factory=UsageSettings, description="Whether engines are asked to report usage in streams."
    )
    agent_url: str = Field(
        "http://127.0.0.1:9440", description="The agent of this node; request records are sent to its ingest path."
    )
    name: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="Name of this sidecar in the records; it must survive restarts and be different for each sidecar "
        "of a node. Default: the host's name and the port it listens on.",
    )
    tenant_header: HeaderName = Field(
        "x-engineroom-tenant", description="Request header that names the tenant, at most 64 characters."
    )
    trust_tenant_header: bool | None = Field(
        None,
        description="Whether the tenant header is believed. Default: only when `listen` is a loopback address, because "
        "there every client is on this machine; behind a gateway that sets the header itself, say true.",
    )
    tenancy: TenancySettings = Field(
        default_factory=TenancySettings, description="By which keys, tokens and headers requests belong to tenants."
    )
    quotas: QuotasSettings = Field(
        default_factory=QuotasSettings,
        description="What tenants may use. The agent's `quotas` hold instead, once it has told them.",
    )
    tolerate_half_close: bool = Field(
        False,
        description="Whether a client that has shut down its sending side still gets its answer. By default it counts "
        "as gone, and its request ends at once so that the engine frees its memory.",
    )
    first_byte_timeout_seconds: float | None = Field(
        None,
        gt=0,
        description="Longest wait between a request and the first byte of its answer. Default: no limit but "
        "`request_timeout_seconds`; a long queue in the engine is not an error.",
    )
    request_timeout_seconds: float = Field(
        600.0, gt=0, description="Longest time from the head of a request to the end of its answer."
    )
    upstream_idle_seconds: float = Field(
        4.0,
        ge=0,
        lt=5,
        description="How long an unused connection to the engine is kept. Below 5, after which most engines close it.",
    )
    upstream_idle_connections: int = Field(256, ge=0, description="Most unused connections to the engine to keep.")
    agent_token_file: ConfigPath | None = Field(
        None,
        description="File with the token that the agent knows this sidecar by: a static one, or a projected service "
        "account token. Read again when it changes.",
    )
    agent_tls: ClientTlsSettings = Field(
        default_factory=ClientTlsSettings, description="How the agent is trusted when `agent_url` is https."
    )
    spool_dir: ConfigPath | None = Field(
        None,
        description="Folder that keeps records until the agent has them; one for each sidecar. Default: "
        "`sidecar-<port>` in /var/lib/engineroom for root, else in ~/.local/state/engineroom.",
    )
    spool: SpoolSettings = Field(default_factory=SpoolSettings, description="Bounds of that folder.")
    ship_interval_seconds: float = Field(0.5, gt=0, description="Longest time an event waits before it is sent.")
    ship_batch_events: int = Field(500, ge=1, le=5000, description="Most events in one batch.")
    ship_timeout_seconds: float = Field(5.0, gt=0, description="Longest wait for the agent's answer to one batch.")
    heartbeat_seconds: float = Field(
        10.0,
        gt=0,
        le=20,
        description="While a request is open: longest silence towards the agent, which gives up the requests of a "
        "sidecar that it has not heard for a minute.",
    )
    ship_drain_seconds: float = Field(5.0, ge=0, description="At shutdown, how long to go on sending what is left.")
    drain_seconds: float = Field(30.0, ge=0, description="At shutdown, how long requests in flight may take to finish.")

    @field_validator("listen", "admin_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        parse_listen(value)
        return value

    @field_validator("upstream")
    @classmethod
    def _is_engine(cls, value: str) -> str:
        parse_upstream(value)
        return value.rstrip("/")

    @field_validator("agent_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        split_url(value)
        return value.rstrip("/")

    @property
    def shown_listen(self) -> str:
        """The port, or what stands for it in names of files and of this sidecar."""
        place = parse_listen(self.listen)
        return str(place.port) if place.path is None else Path(place.path).stem

    @property
    def shown_name(self) -> str:
        """The name in the records, the default applied."""
        return self.name or f"{socket.gethostname()}:{self.shown_listen}"
