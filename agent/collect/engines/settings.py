"""The `engines` section of the config file: which inference servers to watch, and how."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from agent.collect.discovery.kubernetes.settings import KubernetesSettings
from agent.engines.registry import BY_KIND
from agent.settings import ConfigPath, Section


class EngineSettings(Section):
    """One inference server."""

    name: Annotated[
        str | None,
        Field(min_length=1, description="Name under which the engine is shown; host:port of its address by default."),
    ] = None
    url: Annotated[
        str,
        Field(description="Base address of the engine, for example http://127.0.0.1:8000, without /metrics or /v1."),
    ]
    kind: Annotated[
        str,
        Field(
            description="Which server it is; auto tells it from what the server shows. One of: auto, "
            f"{', '.join(sorted(BY_KIND))}.",
        ),
    ] = "auto"
    metrics_url: Annotated[
        str,
        Field(
            description="Whole address of the metrics page, for example http://127.0.0.1:8002/metrics, where it is "
            "not at the usual place of its kind below `url`."
        ),
    ] = ""
    service: Annotated[
        str,
        Field(
            description="Name of the service of which this engine does only a part of the work, as the engines for "
            "prefill and decode do: engines with the same name belong together."
        ),
    ] = ""
    gpus: Annotated[
        tuple[str, ...],
        Field(
            description="GPUs the engine works on, by UUID or index; found through its processes when left empty.",
        ),
    ] = ()
    interval_seconds: Annotated[float, Field(ge=0.5, le=300, description="Seconds between two scrapes.")] = 5.0
    timeout_seconds: Annotated[
        float, Field(gt=0, le=60, description="Seconds that one scrape may take, from connecting to the last byte.")
    ] = 4.0
    token_file: Annotated[
        ConfigPath | None,
        Field(description="File with a bearer token to send, for an engine whose metrics need one (--api-key)."),
    ] = None

    @field_validator("url")
    @classmethod
    def _base_address(cls, url: str) -> str:
        parts = urlsplit(url)
        try:
            port_is_good = parts.port != 0
        except ValueError:
            port_is_good = False
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good:
            raise ValueError(f"expected an address such as http://127.0.0.1:8000, got {url!r}")
        if parts.username or parts.password:
            raise ValueError("expected an address without user and password: put a token into token_file")
        if parts.query or parts.fragment:
            raise ValueError(f"expected an address without ? and #, got {url!r}")
        path = parts.path.rstrip("/")
        if path.endswith(("/metrics", "/v1")):
            base = url[: url.rindex(path)] + path.rsplit("/", 1)[0]
            raise ValueError(f"expected the engine's base address: write {base!r} instead of {url!r}")
        return url.rstrip("/")

    @field_validator("metrics_url")
    @classmethod
    def _whole_address(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        try:
            port_is_good = parts.port != 0
        except ValueError:
            port_is_good = False
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_good or parts.path in ("", "/"):
            raise ValueError(f"expected a whole address such as http://127.0.0.1:8002/metrics, got {url!r}")
        if parts.username or parts.password:
            raise ValueError("expected an address without user and password: put a token into token_file")
        if parts.fragment:
            raise ValueError(f"expected an address without #, got {url!r}")
        return url

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, kind: str) -> str:
        if kind != "auto" and kind not in BY_KIND:
            raise ValueError(f"expected one of auto, {', '.join(sorted(BY_KIND))}, got {kind!r}")
        return kind

    @field_validator("gpus", mode="before")
    @classmethod
    def _indexes_as_text(cls, gpus: object) -> object:
        """YAML reads `[0, 1]` as numbers; both spellings mean the same."""
        if isinstance(gpus, list | tuple):
            return tuple(str(gpu) if isinstance(gpu, int) and not isinstance(gpu, bool) else gpu for gpu in gpus)
        return gpus


class EnginesSettings(Section):
    """Section `engines`."""

    discover: Annotated[
        bool,
        Field(
            description="Look every 15 seconds for engines on this machine, by the command lines of its processes and "
            "the images of its pods, and watch them beside those in `targets`. An engine that is in `targets` is "
            "watched as it stands there. Nothing but a recognised engine is asked anything, and that only at its "
            "documented paths that read."
        ),
    ] = True
    probe_generating: Annotated[
        bool,
        Field(
            description="Also ask engines at the health paths that make them produce a token, such as "
            "/health_generate of SGLang: a truer answer, which costs a little GPU time, at most once a minute."
        ),
    ] = False
    kubernetes: Annotated[
        KubernetesSettings,
        Field(description="What the API server of Kubernetes is asked about the engines of this node."),
    ] = KubernetesSettings()
    targets: Annotated[
        tuple[EngineSettings, ...],
        Field(description="Engines to watch whether they are found or not, and how; they need not be on this machine."),
    ] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> "EnginesSettings":
        shown = [target.name or urlsplit(target.url).netloc for target in self.targets]
        twice = sorted({name for name in shown if shown.count(name) > 1})
        if twice:
            raise ValueError(
                f"expected engines with different names, but {', '.join(twice)} is there twice: set `name`"
            )
        return self
