"""The settings of alert delivery: part of the section `exporters` of the configuration file."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from agent.settings import ConfigPath, Section


def _checked_url(text: str) -> str:
    problem = "write it as http://host:9093 or https://host/prefix, without query, fragment or password"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"`{text}` is not a URL ({error}); {problem}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(f"`{text}` is not an address of an Alertmanager; {problem}")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ValueError(f"the Alertmanager address at `{parts.hostname}` says too much; {problem}")
    if parts.path.rstrip("/").endswith("/api/v2/alerts"):
        raise ValueError(f"`{text}` names the API path; leave out /api/v2/alerts, it is added")
    return text.rstrip("/")


AlertmanagerUrl = Annotated[str, AfterValidator(_checked_url)]


def _distinct(urls: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(urls)) != len(urls):
        raise ValueError("the same Alertmanager is named twice; name each member of a cluster once")
    return urls


class WebhookSettings(Section):
    """One webhook. It gets the body that Alertmanager's webhooks send (version 4), once for each change of an alert."""

    name: str = Field(min_length=1, description="Name to show; the address often carries a token and is never shown.")
    url: str | None = Field(None, pattern="^https?://.", description="Where to post.")
    url_file: ConfigPath | None = Field(None, description="File that holds the address, when the address is a secret.")
    secret_file: ConfigPath | None = Field(
        None, description="File with a secret; the body's HMAC-SHA256 is then sent as X-Engineroom-Signature."
    )

    @model_validator(mode="after")
    def _one_address(self) -> "WebhookSettings":
        if (self.url is None) == (self.url_file is None):
            raise ValueError("expected exactly one of `url` and `url_file`")
        return self


class AlertsDeliverySettings(Section):
    """Where alerts go, and how often what still fires is said again."""

    alertmanagers: Annotated[tuple[AlertmanagerUrl, ...], AfterValidator(_distinct)] = Field(
        default=(),
        description="Base URLs of every Alertmanager. Each gets every alert; do not put a load balancer in front.",
    )
    webhooks: tuple[WebhookSettings, ...] = Field(
        default=(),
        description="Webhooks that are told of every alert that fires and of its end, without an Alertmanager.",
    )
    webhook_repeat_seconds: float = Field(
        default=4 * 3600.0,
        ge=60,
        description="Seconds after which a webhook is told again of an alert that still fires.",
    )
    resend_seconds: float = Field(
        default=30.0,
        ge=1,
        le=600,
        description="Seconds between repeats of an alert that fires. Without repeats it expires after four of them.",
    )
    timeout_seconds: float = Field(
        default=10.0, gt=0, le=60, description="Seconds after which an unanswered request counts as failed."
    )
