"""Published parameter counts of well-known models from the sizes in their config.json."""

from typing import Any

import pytest

from agent.core.cost.model_config import shape_of_config

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "num_local_experts": 8,
    "num_experts_per_tok": 2, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN3_30B = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "vocab_size": 151936, "num_experts": 128, "num_experts_per_tok": 8, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "torch_dtype": "bfloat16", "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip
OPT_125M = {
    "model_type": "opt", "hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "vocab_size": 50272, "torch_dtype": "float16", "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "total", "active", "kv_bytes"),
    [
        (LLAMA_8B, 8.03e9, 6.98e9, 131072),
        (MIXTRAL, 46.7e9, 12.6e9, 131072),
        (QWEN3_30B, 30.5e9, 2.7e9, 98304),
        (DEEPSEEK_V3, 671e9, 36.6e9, 70272),
        (OPT_125M, 123.5e6, 84.9e6, 36864),  # 125M with its table of positions
    ],
)
def test_published_sizes(config: dict[str, Any], total: float, active: float, kv_bytes: float) -> None:
    shape = shape_of_config(config, "config_file", "x")
    assert shape is not None
    assert shape.total_parameters == pytest.approx(total, rel=0.01)
    assert shape.active_parameters == pytest.approx(active, rel=0.03)
    assert shape.kv_bytes_per_token == kv_bytes


@pytest.mark.parametrize(
    ("more", "size", "arithmetic"),
    [
        ({}, 2.0, "16bit"),
        ({"torch_dtype": "float32"}, 4.0, "16bit"),
        ({"torch_dtype": None, "dtype": "float16"}, 2.0, "16bit"),
        ({"torch_dtype": 7}, None, "16bit"),
        ({"quantization_config": {"quant_method": "fp8"}}, 1.0, "fp8"),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, 0.5, "16bit"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, 1.0, "16bit"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, 0.5, "16bit"),
        ({"quantization_config": "fp8"}, 2.0, "16bit"),
    ],
)
def test_precision(more: dict[str, Any], size: float | None, arithmetic: str) -> None:
    shape = shape_of_config({**LLAMA_8B, **more}, "config_file")
    assert shape is not None
    assert (shape.bytes_per_parameter, shape.arithmetic) == (size, arithmetic)


def test_the_text_part_of_a_model_that_also_sees() -> None:
    inner = {key: value for key, value in LLAMA_8B.items() if key != "torch_dtype"}
    shape = shape_of_config({"model_type": "mllama", "torch_dtype": "bfloat16", "text_config": inner}, "model_folder")
    assert shape == shape_of_config(LLAMA_8B, "model_folder")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_size": 4096},
        {**LLAMA_8B, "hidden_size": -1},
        {**LLAMA_8B, "num_hidden_layers": float("nan")},
        {**LLAMA_8B, "num_attention_heads": "32"},
        {**LLAMA_8B, "hidden_size": 10**300},
    ],
)
def test_nonsense_has_no_shape(config: dict[str, Any]) -> None:
    assert shape_of_config(config, "config_file") is None
