"""The `engines` section: what is accepted, and what is said about what is not."""

import pytest
from pydantic import ValidationError

from agent.collect.engines.settings import EngineSettings, EnginesSettings
from agent.collect.engines.targets import EngineTarget


def test_nothing_configured_discovers() -> None:
    assert EnginesSettings().discover
    assert EnginesSettings().targets == ()
    assert EnginesSettings().probe_generating is False
    assert EnginesSettings().kubernetes.enabled == "auto"


def test_target_from_settings() -> None:
    settings = EngineSettings.model_validate(
        {"name": "chat", "url": "http://h:8000/", "kind": "vllm", "gpus": [0, "GPU-1"], "interval_seconds": 2}
    )
    target = EngineTarget.from_settings(settings)
    assert (target.url, target.engine, target.kind, target.gpus) == ("http://h:8000", "chat", "vllm", ("0", "GPU-1"))
    assert (target.interval_seconds, target.timeout_seconds) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("localhost:8000", "expected an address such as http"),
        ("ftp://h", "expected an address such as http"),
        ("http://", "expected an address such as http"),
        ("http://h:0", "expected an address such as http"),
        ("http://h:99999", "expected an address such as http"),
        ("http://h:8000/metrics", "write 'http://h:8000' instead"),
        ("http://h:8000/v1/", "write 'http://h:8000' instead"),
        ("http://h/base/metrics", "write 'http://h/base' instead"),
        ("http://u:p@h", "token_file"),
        ("http://h?x=1", "without ?"),
    ],
)
def test_bad_address_is_explained(url: str, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        EngineSettings(url=url)
    assert said in str(raised.value)


@pytest.mark.parametrize("url", ["", "http://h:8002/metrics", "https://h/prometheus/metrics?model=a"])
def test_address_of_the_metrics_page(url: str) -> None:
    assert EngineSettings(url="http://h:8000", metrics_url=url).metrics_url == url


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://h:8002", "expected a whole address"),
        ("http://h:8002/", "expected a whole address"),
        ("h:8002/metrics", "expected a whole address"),
        ("http://h:0/metrics", "expected a whole address"),
        ("http://h:99999/metrics", "expected a whole address"),
        ("http://u:p@h/metrics", "token_file"),
        ("http://h/metrics#top", "without #"),
    ],
)
def test_bad_address_of_the_metrics_page_is_explained(url: str, said: str) -> None:
    with pytest.raises(ValidationError) as raised:
        EngineSettings(url="http://h:8000", metrics_url=url)
    assert said in str(raised.value)


def test_service() -> None:
    assert EngineSettings(url="http://h", service="chat").service == "chat"


def test_unknown_keys_and_kinds_are_errors() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        EngineSettings.model_validate({"url": "http://h", "ulr": "http://h"})
    with pytest.raises(ValidationError, match="vllm"):
        EngineSettings.model_validate({"url": "http://h", "kind": "vlm"})


def test_two_engines_of_one_name_are_an_error() -> None:
    with pytest.raises(ValidationError, match="h:8000 is there twice"):
        EnginesSettings.model_validate({"targets": [{"url": "http://h:8000"}, {"url": "http://h:8000"}]})


@pytest.mark.parametrize("model", [EngineSettings, EnginesSettings])
def test_every_setting_is_described(model: type[EngineSettings]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []
