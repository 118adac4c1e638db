"""Settings of the page that stands in for dcgm-exporter. Section `exporters.dcgm`."""

from typing import Literal

from pydantic import Field, field_validator

from agent.doors.settings import AuthSettings, LimitSettings, TlsSettings
from agent.settings import Section, split_address


class DcgmSettings(Section):
    """GPUs under dcgm-exporter's names, on a port of their own. See docs/dcgm.md."""

    enabled: bool = Field(False, description="Whether GPUs are served under dcgm-exporter's names too.")
    listen: str = Field(
        "127.0.0.1:9400", description="Address of that page (/metrics) and of its /health. host:port; 9400 is usual."
    )
    profile: Literal["classic", "4.6", "both"] = Field(
        "classic",
        description="Which names: `classic`, as dashboards know them; `4.6`, as DCGM calls them since that version; "
        "`both`, twice the page. Units are the same.",
    )
    hostname_label: Literal["Hostname", "hostname", "both"] = Field(
        "Hostname",
        description="How the label with the node's name is written: dcgm-exporter wrote `Hostname` until May 2026.",
    )
    node_name: str | None = Field(None, description="Value of that label. Default: the node's name.")
    metrics: Literal["all", "default"] = Field(
        "all", description="`default`: only what dcgm-exporter gives without a configuration file, and FB_TOTAL."
    )
    utilization_as_engine_active: bool = Field(
        False,
        description="Whether GPUs before Hopper, which cannot measure it without DCGM, show their utilisation as "
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE. It is not the same (it is higher), but OpenCost shows no GPU use without it.",
    )
    auth: AuthSettings = Field(
        default_factory=AuthSettings,
        description="Who may read /metrics there. Needed when `listen` is not a loopback address.",
    )
    tls: TlsSettings = Field(default_factory=TlsSettings, description="Makes `listen` speak HTTPS.")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="What `listen` takes.")

    @field_validator("listen")
    @classmethod
    def _is_address(cls, value: str) -> str:
        split_address(value)
        return value
