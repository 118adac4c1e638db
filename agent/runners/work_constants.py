"""The section `tariff` and the model files that it names in; shapes and peaks for `WorkConstants` out."""

import json
from pathlib import Path

from agent.core.cost.constants import WorkConstants
from agent.core.cost.model_config import shape_of_config
from agent.core.cost.shapes import Efficiency, GpuPower, ModelShape, kv_bytes_per_token
from agent.core.ports import ConfigError
from agent.runners.tariff_settings import TariffModel, TariffSettings

MOST_BYTES = 4 * 2**20  # of a config.json; real ones have some kilobytes


def work_constants(settings: TariffSettings) -> WorkConstants:
    """What the tariff charges by. Raises `ConfigError` for a config_file that cannot be read or is of no model."""
    shapes = [(model.model, _shape(model, f"tariff.models[{place}]")) for place, model in enumerate(settings.models)]
    powers = [
        (gpu.model, GpuPower(gpu.teraflops * 1e12, gpu.gigabytes_per_second * 1e9, _tera(gpu.fp8_teraflops)))
        for gpu in settings.gpus
    ]
    efficiency = Efficiency(settings.compute_efficiency, settings.memory_efficiency)
    return WorkConstants(shapes, powers, efficiency=efficiency, fit=settings.fit)


def _tera(teraflops: float | None) -> float | None:
    return None if teraflops is None else teraflops * 1e12


def _shape(model: TariffModel, key: str) -> ModelShape:
    read = None if model.config_file is None else _read(model.config_file, f"{key}.config_file")
    active = model.active_parameters or (read.active_parameters if read else 0.0)
    kv_bytes = model.kv_bytes_per_token
    if kv_bytes is None and model.layers and model.kv_heads and model.head_dim:
        kv_bytes = kv_bytes_per_token(model.layers, model.kv_heads, model.head_dim, model.kv_bytes_per_value)
    if kv_bytes is None and read is not None and read.kv_bytes_per_token is not None:
        kv_bytes = read.kv_bytes_per_token * model.kv_bytes_per_value / 2
    return ModelShape(
        active_parameters=active,
        total_parameters=model.total_parameters or (read.total_parameters if read else None),
        bytes_per_parameter=model.bytes_per_parameter or (read.bytes_per_parameter if read else None),
        kv_bytes_per_token=kv_bytes,
        arithmetic=model.arithmetic or (read.arithmetic if read else "16bit"),
        source="config" if read is None else "config_file",
        told_by=key if read is None else str(model.config_file),
    )


def _read(path: Path, key: str) -> ModelShape:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(key, f"cannot read {path}: {error.strerror}") from error
    try:
        config = json.loads(text) if len(text) <= MOST_BYTES else None
    except (ValueError, RecursionError):
        config = None
    shape = shape_of_config(config, "config_file") if isinstance(config, dict) else None
    if shape is None:
        raise ConfigError(
            key, f"{path} is not the config.json of a language model (hidden_size, num_hidden_layers, ...)"
        )
    return shape
