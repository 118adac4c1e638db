"""A model's `config.json`, as Hugging Face's models carry it, in; the shape of the model out.

Parameters are counted from the sizes of its matrices: queries, keys and values, output, and the three of a gated
feed-forward block (two, where the activation has no gate). Biases and norms are left out: less than a thousandth.
"""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from agent.core.cost.shapes import Arithmetic, ModelShape, ShapeSource, kv_bytes_per_token

_BYTES = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "float8_e4m3fn": 1.0, "float8_e5m2": 1.0}
_UNGATED = ("gpt2", "gpt_neox", "gptj", "gpt_bigcode", "opt", "bloom", "falcon", "phi", "starcoder2", "mpt", "nemotron")
_FP8 = ("fp8", "fbgemm_fp8", "modelopt")
_LARGEST = 1e9  # of a single size; larger ones are nonsense


def shape_of_config(config: Mapping[str, Any], source: ShapeSource, told_by: str = "") -> ModelShape | None:
    """None when it is no config of a decoder, or lacks the sizes."""
    for inner in ("text_config", "llm_config", "language_config"):
        if isinstance(config.get(inner), Mapping):
            outer = {key: config[key] for key in ("torch_dtype", "dtype", "quantization_config") if key in config}
            config = {**outer, **config[inner]}
    hidden = _size(config, "hidden_size", "n_embd", "d_model")
    layers = _size(config, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    heads = _size(config, "num_attention_heads", "n_head", "num_heads", "n_heads")
    if hidden is None or layers is None or heads is None:
        return None
    attention, kv_values = _attention(config, hidden, heads)
    active, total = _feed_forward(config, hidden, layers)
    active, total = active + layers * attention, total + layers * attention
    table = hidden * (_size(config, "vocab_size") or 0.0)
    bytes_per_parameter, arithmetic = _precision(config)
    return ModelShape(
        active_parameters=active,
        total_parameters=total + (table if config.get("tie_word_embeddings") else 2 * table),
        bytes_per_parameter=bytes_per_parameter,
        kv_bytes_per_token=layers * kv_values * 2.0,
        arithmetic=arithmetic,
        source=source,
        told_by=told_by,
    )


def _attention(config: Mapping[str, Any], hidden: float, heads: float) -> tuple[float, float]:
    """(parameters, values kept for a token) of the attention of one layer."""
    latent = _size(config, "kv_lora_rank")
    if latent is not None:  # multi-head latent attention
        rope, plain = _size(config, "qk_rope_head_dim") or 0.0, _size(config, "qk_nope_head_dim") or 0.0
        value, rank = _size(config, "v_head_dim") or 0.0, _size(config, "q_lora_rank")
        query = heads * (rope + plain)
        queries = hidden * query if rank is None else hidden * rank + rank * query
        rest = hidden * (latent + rope) + latent * heads * (plain + value) + heads * value * hidden
        return queries + rest, latent + rope
    head_dim = _size(config, "head_dim") or hidden / heads
    kv_heads = _size(config, "num_key_value_heads", "n_head_kv", "num_kv_heads") or heads
    if config.get("multi_query") is True:
        kv_heads = 1.0
    return 2 * hidden * head_dim * (heads + kv_heads), kv_bytes_per_token(1, kv_heads, head_dim, 1.0)


def _feed_forward(config: Mapping[str, Any], hidden: float, layers: float) -> tuple[float, float]:
    """(active, all) parameters of the feed-forward blocks of all layers."""
    matrices = 2 if config.get("model_type") in _UNGATED else 3
    inner = _size(config, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") or 4 * hidden
    dense = matrices * hidden * inner
    experts = _size(config, "num_local_experts", "n_routed_experts", "num_experts") or 0.0
    chosen = _size(config, "num_experts_per_tok", "num_experts_per_token", "moe_topk")
    if experts < 2 or chosen is None:
        return layers * dense, layers * dense
    expert = matrices * hidden * (_size(config, "moe_intermediate_size") or inner)
    shared = expert * (_size(config, "n_shared_experts") or 0.0)
    shared += matrices * hidden * (_size(config, "shared_expert_intermediate_size") or 0.0)
    plain = min(layers, _size(config, "first_k_dense_replace") or 0.0)
    sparse, always = layers - plain, plain * dense + (layers - plain) * (shared + hidden * experts)
    return always + sparse * min(chosen, experts) * expert, always + sparse * experts * expert


def _precision(config: Mapping[str, Any]) -> tuple[float | None, Arithmetic]:
    """(bytes of a parameter, arithmetic). Weights of four bits are multiplied in sixteen."""
    plain = _BYTES.get(str(config.get("torch_dtype") or config.get("dtype")).removeprefix("torch."))
    quantised = config.get("quantization_config")
    if not isinstance(quantised, Mapping):
        return plain, "16bit"
    method = str(quantised.get("quant_method", "")).lower()
    if method in _FP8:
        return 1.0, "fp8"
    bits = _size(quantised, "bits", "w_bit")
    if bits is not None:
        return bits / 8, "16bit"
    halves = {"load_in_4bit": 0.5, "load_in_8bit": 1.0}
    told = [size for key, size in halves.items() if quantised.get(key) is True]
    return (told[0] if told else 0.5 if method == "mxfp4" else plain), "16bit"


def _size(config: Mapping[str, Any], *names: str) -> float | None:
    """The first of these keys that holds a positive number."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) and 0 < value < _LARGEST:
            return float(value)
    return None
