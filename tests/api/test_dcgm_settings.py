import pytest
from pydantic import ValidationError

from agent.api.dcgm_settings import DcgmSettings


def test_it_is_off_and_local_unless_asked_for():
    settings = DcgmSettings()
    assert not settings.enabled
    assert settings.listen == "127.0.0.1:9400"
    assert (settings.profile, settings.hostname_label, settings.metrics) == ("classic", "Hostname", "all")
    assert not settings.utilization_as_engine_active


@pytest.mark.parametrize(
    "wrong", [{"listen": "9400"}, {"profile": "4.5"}, {"hostname_label": "host"}, {"metrics": "some"}, {"port": 9400}]
)
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DcgmSettings.model_validate(wrong)
