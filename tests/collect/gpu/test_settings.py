import pytest
from pydantic import ValidationError

from agent.collect.gpu.settings import GpuSettings


def test_defaults():
    settings = GpuSettings()
    assert settings.enabled
    assert (settings.interval_seconds, settings.slow_interval_seconds, settings.call_deadline_seconds) == (1, 10, 5)


@pytest.mark.parametrize("wrong", [{"interval_seconds": 0.1}, {"interval_seconds": 61}, {"intervall": 1}])
def test_mistakes_are_refused(wrong):
    with pytest.raises(ValidationError):
        GpuSettings(**wrong)
