"""Settings of the agent's own listeners. Section `api`."""

from pydantic import Field, field_validator

from agent.doors.settings import AuthSettings, LimitSettings, TlsSettings
from agent.settings import Section, split_address


class ApiSettings(Section):
    """The agent's own listeners."""

    listen: str = Field("127.0.0.1:9440", description="Address of the page, /metrics and the APIs. host:port.")
    probes_listen: str = Field(
        "127.0.0.1:9441", description="Address of /livez, /readyz and /startupz, which need no authentication."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Further host names under which people reach the page; IP addresses and localhost always work."
    )
    auth: AuthSettings = Field(
        default_factory=AuthSettings,
        description="Who may come in at `listen`. Needed when it is not a loopback address.",
    )
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Makes `listen` speak HTTPS.")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="What `listen` takes.")

    @field_validator("listen", "probes_listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value
