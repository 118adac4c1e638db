"""The settings of the section `tariff`: what is known of models and GPUs, and for whom slots are reserved."""

from typing import Literal, Self

from pydantic import Field, model_validator

from agent.runners.owners_settings import OwnerSettings
from agent.settings import ConfigPath, Section


class TariffModel(Section):
    """The shape of a model: its sizes, or the config.json that has them."""

    model: str = Field(min_length=1, description="Pattern (* and ?) of the name under which clients ask for it.")
    config_file: ConfigPath | None = Field(
        None, description="Hugging Face's config.json of the model. Sizes given beside it count before those in it."
    )
    active_parameters: float | None = Field(
        None,
        gt=0,
        le=1e15,
        description="Parameters that work on a token, such as 8.03e9. Of a mixture of experts, those that are chosen.",
    )
    total_parameters: float | None = Field(None, gt=0, le=1e15, description="All parameters. For people only.")
    bytes_per_parameter: float | None = Field(None, gt=0, le=16, description="2 for bf16. For people only.")
    layers: int | None = Field(None, gt=0, le=10_000, description="With `kv_heads` and `head_dim`: size of its cache.")
    kv_heads: int | None = Field(None, gt=0, le=10_000, description="Heads of keys and values, of one layer.")
    head_dim: int | None = Field(None, gt=0, le=100_000, description="Numbers in each of them.")
    kv_bytes_per_value: float = Field(2.0, gt=0, le=16, description="Of keys and values in the cache: 1 for fp8.")
    kv_bytes_per_token: float | None = Field(None, gt=0, le=1e9, description="The size of its cache, given at once.")
    arithmetic: Literal["16bit", "fp8"] | None = Field(
        None, description="In which it is multiplied. Default: 16bit, or what config_file says."
    )

    @model_validator(mode="after")
    def _sized(self) -> Self:
        if self.config_file is None and self.active_parameters is None:
            raise ValueError("give active_parameters (such as 8.03e9), or the config_file that they follow from")
        given = [size is not None for size in (self.layers, self.kv_heads, self.head_dim)]
        if any(given) and not all(given):
            raise ValueError("layers, kv_heads and head_dim belong together: give all three, or kv_bytes_per_token")
        return self


class TariffGpu(Section):
    """The peaks of a GPU that is not in the table, or does not reach them here."""

    model: str = Field(min_length=1, description="Pattern (* and ?) of its name, as nvidia-smi -L shows it.")
    teraflops: float = Field(gt=0, le=1e6, description="10^12 operations per second in 16 bits, without sparsity.")
    fp8_teraflops: float | None = Field(None, gt=0, le=1e6, description="The same in fp8, where it has that.")
    gigabytes_per_second: float = Field(gt=0, le=1e6, description="Bandwidth of its memory, in 10^9 bytes.")


class TariffSettings(Section):
    """By what requests share the time of the GPUs: their own work first, by a roofline of the model, then equally."""

    models: tuple[TariffModel, ...] = Field(
        (), description="Shapes of models, before those that engines tell. The first pattern that fits counts."
    )
    gpus: tuple[TariffGpu, ...] = Field((), description="Peaks of GPUs, before those that engineroom knows.")
    fit: bool = Field(
        True, description="Whether the two constants of each model are fitted to what its engine is seen to need."
    )
    compute_efficiency: float = Field(
        0.5, gt=0, le=1, description="What of the peak an engine reaches while it reads prompts, before any fit."
    )
    memory_efficiency: float = Field(
        0.8, gt=0, le=1, description="What of the bandwidth it reaches while it reads its cache, before any fit."
    )
    owners: tuple[OwnerSettings, ...] = Field(
        (),
        description="For which tenants slots are reserved: they pay for them while they are idle, where a report has "
        "the idle policy `owner`. The first entry that matches a slot counts.",
    )
