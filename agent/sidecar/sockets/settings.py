"""Settings of the sidecar's sockets: how it listens for clients, how it connects to engines."""

from pydantic import Field, field_validator

from agent.doors.settings import ClientTlsSettings
from agent.settings import Section
from agent.sidecar.sockets.addresses import host_value


class ListenSettings(Section):
    """How the sidecar listens for clients."""

    unix_mode: str = Field(
        "0660",
        pattern="^0?[0-7]{3}$",
        description="Who may connect to a unix socket, as the mode of its file; in quotes, such as '0660'.",
    )
    backlog: int = Field(
        1024, ge=1, le=65535, description="Connections that may wait to be accepted; net.core.somaxconn bounds it too."
    )
    reuse_port: bool = Field(
        False,
        description="Whether other processes of the same user may listen on the same address and share its connections "
        "(SO_REUSEPORT).",
    )
    dual_stack: bool = Field(
        True, description="Whether a listener on `[::]` takes IPv4 clients too; they show as ::ffff:a.b.c.d."
    )
    handshake_timeout_seconds: float = Field(
        10.0, gt=0, le=600, description="Longest time that a client may take for the TLS handshake."
    )

    @property
    def mode(self) -> int:
        """`unix_mode` as a number."""
        return int(self.unix_mode, 8)


class DialSettings(Section):
    """How the sidecar connects to an engine."""

    tls: ClientTlsSettings = Field(
        default_factory=ClientTlsSettings, description="How an engine behind https is trusted."
    )
    server_name: str | None = Field(
        None,
        min_length=1,
        max_length=253,
        description="Name that the engine's certificate must have, and that is sent to it (SNI). Default: the host in "
        "its URL.",
    )
    host: str = Field(
        "auto",
        max_length=255,
        description="The Host that the engine gets: `keep` the client's, the `engine`'s own address, or a value of "
        "your own. `auto` is `engine` for https, and where the engine is on loopback or a unix socket while the "
        "sidecar listens for other machines (Ollama answers 403 to a foreign Host there); else `keep`. The client's "
        "Host is passed on in X-Forwarded-Host.",
    )
    connect_timeout_seconds: float = Field(
        5.0, gt=0, description="Longest wait for a connection to the engine, its name's resolution and TLS included."
    )
    keepalive_seconds: int = Field(
        30,
        ge=1,
        le=32767,
        description="Silence after which the kernel asks whether the engine's machine is still there. It counts as "
        "gone after three questions without an answer, ten seconds apart.",
    )

    @field_validator("host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        return host_value(value)
