"""engineroom.yaml and the environment in, one checked `Settings` out. Every mistake is named at once, with its key."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from agent.api.dcgm_settings import DcgmSettings
from agent.api.settings import ApiSettings
from agent.collect.engines.settings import EnginesSettings
from agent.collect.gpu.settings import GpuSettings
from agent.collect.workloads.settings import WorkloadSettings
from agent.core.ports import ConfigError
from agent.delivery.settings import AlertsDeliverySettings
from agent.doors.settings import require_credentials
from agent.ledger.settings import PricesSettings
from agent.runners.budgets_settings import BudgetsSettings
from agent.runners.reports_settings import ReportsSettings
from agent.runners.settings import RulesSettings
from agent.runners.tariff_settings import TariffSettings
from agent.settings import NodeSettings, Section, StorageSettings
from agent.sidecar.quota.settings import QuotasSettings
from agent.sidecar.settings import SidecarSettings

ENVIRONMENT_PREFIX = "ENGINEROOM__"


class ExportersSettings(AlertsDeliverySettings):
    """What leaves the node, and in which other forms the node shows itself."""

    dcgm: DcgmSettings = Field(
        default_factory=DcgmSettings, description="A page that stands in for dcgm-exporter's. docs/dcgm.md."
    )


class Settings(Section):
    """The whole file. A section that is left out has its defaults; with no file at all the agent works too."""

    node: NodeSettings = Field(default_factory=NodeSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    gpus: GpuSettings = Field(default_factory=GpuSettings)
    workloads: WorkloadSettings = Field(default_factory=WorkloadSettings)
    engines: EnginesSettings = Field(default_factory=EnginesSettings)
    sidecar: SidecarSettings = Field(default_factory=SidecarSettings)
    rules: RulesSettings = Field(default_factory=RulesSettings)
    prices: PricesSettings = Field(default_factory=PricesSettings)
    tariff: TariffSettings = Field(default_factory=TariffSettings)
    budgets: BudgetsSettings = Field(default_factory=BudgetsSettings)
    reports: ReportsSettings = Field(default_factory=ReportsSettings)
    quotas: QuotasSettings = Field(default_factory=QuotasSettings)
    exporters: ExportersSettings = Field(default_factory=ExportersSettings)
    api: ApiSettings = Field(default_factory=ApiSettings)

    @model_validator(mode="after")
    def _a_port_each(self) -> "Settings":
        listeners = {"api.listen": self.api.listen, "api.probes_listen": self.api.probes_listen}
        if self.exporters.dcgm.enabled:
            listeners["exporters.dcgm.listen"] = self.exporters.dcgm.listen
        seen: dict[str, str] = {}
        for key, address in listeners.items():
            if address in seen:
                raise ValueError(f"{seen[address]} and {key} are both {address}; give each its own port")
            seen[address] = key
        return self


class ConfigErrors(Exception):
    """All that is wrong with a configuration; one `ConfigError` for each key."""

    def __init__(self, source: str, errors: list[ConfigError]) -> None:
        super().__init__("\n".join(f"{source}: {error}" for error in errors))
        self.source = source
        self.errors = errors


class _StrictLoader(yaml.SafeLoader):
    """YAML that refuses a key written twice: the second would silently win."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is written twice", key_node.start_mark
            )
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(file: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from `file` (None: defaults only), overridden by ``ENGINEROOM__SECTION__KEY`` variables.

    Raises `ConfigErrors`. Relative paths inside the file are relative to the file's folder.
    """
    source = str(file) if file else "defaults"
    tree = _read(file) if file else {}
    _override(tree, environment, source)
    try:
        settings = Settings.model_validate(tree, context={"folder": file.parent if file else Path.cwd()})
        require_credentials("api", settings.api.listen, settings.api.auth, settings.api.tls)
        dcgm = settings.exporters.dcgm
        if dcgm.enabled:
            require_credentials("exporters.dcgm", dcgm.listen, dcgm.auth, dcgm.tls)
    except ValidationError as error:
        raise ConfigErrors(source, [_explain(detail) for detail in error.errors()]) from error
    except ConfigError as error:
        raise ConfigErrors(source, [error]) from error
    return settings


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigErrors(str(file), [ConfigError("(file)", f"cannot be read: {reason}")]) from error
    try:
        tree = yaml.load(text, _StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigErrors(str(file), [ConfigError("(file)", f"is not valid YAML: {error}")]) from error
    if tree is None:
        return {}
    if isinstance(tree, dict):
        return {key: value for key, value in tree.items() if value is not None}  # `node:` with nothing under it
    expected = f"must be a mapping of sections such as `engines:`, not a {type(tree).__name__}"
    raise ConfigErrors(str(file), [ConfigError("(file)", expected)])


def _override(tree: dict[str, Any], environment: Mapping[str, str], source: str) -> None:
    for variable, text in sorted(environment.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        path = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        place = tree
        for section in path[:-1]:
            inner = place.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigErrors(source, [ConfigError(variable, f"`{section}` is not a section that has keys")])
            place = inner
        try:
            place[path[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigErrors(source, [ConfigError(variable, f"its value is not valid YAML: {error}")]) from error


def _explain(detail: ErrorDetails) -> ConfigError:
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path) or "(file)"
    kind, message = detail["type"], detail["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        allowed = _keys_at(path[:-1])
        return ConfigError(key, "no such key" + (f"; known here: {', '.join(allowed)}" if allowed else ""))
    given = detail.get("input")
    shown = "" if isinstance(given, dict | BaseModel) or _secret(path) else f" (got {given!r})"
    return ConfigError(key, message[:1].lower() + message[1:] + shown)


def _keys_at(path: list[str]) -> list[str]:
    model: Any = Settings
    for part in path:
        if part.isdigit():
            continue
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = _model_in(field.annotation)
        if model is None:
            return []
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _secret(path: list[str]) -> bool:
    return any(word in path[-1] for word in ("token", "password", "secret", "key")) if path else False
