"""What the section `rules` takes."""

import pytest
from pydantic import ValidationError

from agent.runners.settings import RulesSettings


def test_nothing_configured_means_the_shipped_rules_as_they_are():
    settings = RulesSettings()
    assert (settings.files, settings.interval_seconds, settings.hold_scale) == ((), 5.0, 1.0)


@pytest.mark.parametrize(
    "wrong", [{"hold_scale": 0}, {"interval_seconds": 0}, {"interval_seconds": 1e9}, {"file": ["x"]}]
)
def test_what_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RulesSettings(**wrong)


def test_every_setting_is_described():
    assert all(field.description for field in RulesSettings.model_fields.values())
