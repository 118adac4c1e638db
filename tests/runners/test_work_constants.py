"""What the section `tariff` makes known of models, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agent.core.ports import ConfigError
from agent.runners.tariff_settings import TariffGpu, TariffModel, TariffSettings
from agent.runners.work_constants import MOST_BYTES, work_constants

H100 = "NVIDIA H100 80GB HBM3"
CONFIG = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
}  # fmt: skip


def constants(settings: TariffSettings, gpu: str = H100) -> tuple[float, float] | None:
    known = work_constants(settings)
    known.tell_gpus("e", [(gpu, 1.0)])
    found = known.constants_of("e", "llama-8b")
    return None if found is None else (found.prefill_ns, found.context_ns)


def settings(**model: Any) -> TariffSettings:
    return TariffSettings(models=(TariffModel(**{"model": "llama*", **model}),))


def test_nothing_configured_means_that_nobody_is_known_here_and_the_fit_is_on():
    assert constants(TariffSettings()) is None
    assert TariffSettings().fit


def test_sizes_given_one_by_one():
    found = constants(settings(active_parameters=8.03e9, layers=32, kv_heads=8, head_dim=128))
    assert found == pytest.approx((32463.2, 48.88), rel=1e-3)
    assert found == constants(settings(active_parameters=8.03e9, kv_bytes_per_token=131072))
    assert constants(settings(active_parameters=8.03e9)) == pytest.approx((32463.2, 0.0), rel=1e-3)


def test_sizes_of_a_file_and_what_is_given_beside_it(tmp_path: Path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(CONFIG))
    found = constants(settings(config_file=file))
    assert found == pytest.approx((28214, 48.88), rel=1e-3)
    assert constants(settings(config_file=file, kv_bytes_per_value=1)) == pytest.approx((28214, 24.44), rel=1e-3)
    assert constants(settings(config_file=file, active_parameters=8.03e9)) == pytest.approx((32463, 48.88), rel=1e-3)
    known = work_constants(settings(config_file=file))
    known.constants_of("e", "llama")
    shape = known.views()[0].shape
    assert shape is not None
    assert (shape.source, shape.told_by, shape.bytes_per_parameter) == ("config_file", str(file), 2.0)


def test_a_gpu_of_ones_own():
    with_it = TariffSettings(
        models=settings(active_parameters=1e9).models,
        gpus=(TariffGpu(model="*H100*", teraflops=100, gigabytes_per_second=1000),),
        compute_efficiency=1.0,
    )
    assert constants(with_it) == pytest.approx((20_000.0, 0.0))
    assert constants(with_it, "AMD Instinct MI300X") is None


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b"\xff", b"{" * 5000, b'{"hidden_size": 1e400}', b" " * (MOST_BYTES + 1)]
)
def test_a_file_that_is_no_model(tmp_path: Path, text: bytes):
    file = tmp_path / "config.json"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=r"tariff.models\[0\].config_file: .* is not the config.json"):
        work_constants(settings(config_file=file))


def test_a_file_that_is_not_there(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        work_constants(settings(config_file=tmp_path / "nothing.json"))
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        work_constants(settings(config_file=tmp_path))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": "a"}, "give active_parameters"),
        ({"model": "a", "active_parameters": 0}, "active_parameters"),
        ({"model": "a", "active_parameters": float("nan")}, "active_parameters"),
        ({"model": "a", "active_parameters": float("inf")}, "active_parameters"),
        ({"model": "", "active_parameters": 1e9}, "model"),
        ({"model": "a", "active_parameters": 1e9, "layers": 32}, "belong together"),
        ({"model": "a", "active_parameters": 1e9, "size": 1}, "size"),
    ],
)
def test_models_that_are_refused(wrong: dict[str, Any], says: str):
    with pytest.raises(ValidationError, match=says):
        TariffModel(**wrong)


@pytest.mark.parametrize("wrong", [{"compute_efficiency": 0}, {"memory_efficiency": 1.1}, {"model": ()}])
def test_what_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TariffSettings(**wrong)


def test_every_setting_is_described():
    for section in (TariffSettings, TariffModel, TariffGpu):
        assert all(field.description for field in section.model_fields.values())
