"""The settings of this station: the section `rules` of the configuration file."""

from pydantic import Field

from agent.settings import ConfigPath, Section


class RulesSettings(Section):
    """Which rules are evaluated on this node, and how often."""

    files: tuple[ConfigPath, ...] = Field(
        default=(), description="Prometheus rule files to evaluate. Empty: the rules that come with engineroom."
    )
    interval_seconds: float = Field(
        default=5.0,
        gt=0,
        le=300,
        description="Seconds between evaluations of a group that names no `interval` of its own.",
    )
    hold_scale: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Multiplies every `for` and `keep_firing_for`. 1: as the rule file says. The demo shortens them.",
    )
