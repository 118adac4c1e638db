"""The settings of the API server."""

import pytest
from pydantic import ValidationError

from agent.collect.discovery.kubernetes.settings import KubernetesSettings


@pytest.mark.parametrize("value", ["auto", True, False])
def test_enabled(value: object) -> None:
    assert KubernetesSettings.model_validate({"enabled": value}).enabled == value


@pytest.mark.parametrize("wrong", [{"enabled": "yes"}, {"node_name": ""}, {"node": "n"}])
def test_wrong_values(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        KubernetesSettings.model_validate(wrong)


def test_every_setting_is_described() -> None:
    assert all(field.description for field in KubernetesSettings.model_fields.values())
