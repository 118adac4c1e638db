"""The entries of `tariff.owners`: for which tenants slots are reserved."""

from collections.abc import Iterable

from pydantic import Field, model_validator

from agent.core.cost.allocating import Owner
from agent.settings import Section


class OwnerSettings(Section):
    """Slots that are reserved for a tenant: those for which everything that is given here matches."""

    tenant: str = Field(min_length=1, description="Who pays for them while they are idle, where `idle` is `owner`.")
    gpus: tuple[str, ...] = Field(
        (), description="UUIDs of GPUs, MIG devices or shares, or shell globs of them (GPU-8f*). Left out: all."
    )
    engine: str | None = Field(None, description="Only while this engine is on them.")
    model: str | None = Field(None, description="Only while this model is served on them.")
    namespace: str | None = Field(None, description="Only while a pod of this Kubernetes namespace holds them.")

    @model_validator(mode="after")
    def _says_which(self) -> "OwnerSettings":
        if not self.gpus and self.engine is None and self.model is None and self.namespace is None:
            raise ValueError(
                f"say which slots are reserved for {self.tenant!r}: gpus, engine, model or namespace "
                "(gpus: ['*'] for all of them)"
            )
        if any(not glob for glob in self.gpus):
            raise ValueError("gpus: expected UUIDs or globs such as GPU-8f*, got an empty one")
        return self

    @property
    def owner(self) -> Owner:
        """The same as a plain value."""
        return Owner(self.tenant, self.gpus, self.engine, self.model, self.namespace)


def owners(section: Iterable[OwnerSettings]) -> tuple[Owner, ...]:
    """The entries as plain values, for `Ledger`."""
    return tuple(entry.owner for entry in section)
