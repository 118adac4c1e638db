"""A language model of half a megabyte with random weights: enough for a real engine to serve real requests."""

from pathlib import Path

SEED = 20261123
EMBEDDING = 64
LAYERS = 2
HEADS = 4
FEED_FORWARD = 128
CONTEXT_TOKENS = 4096
SPECIAL = (b"<unk>", b"<s>", b"</s>")
WORDS = 64


def write_model(path: Path) -> None:
    """Write a llama model in GGUF form to `path`: byte vocabulary, so that it can read any text."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("engineroom-demo")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    vocabulary = _add_vocabulary(writer)

    random = np.random.default_rng(SEED)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * 0.05).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(EMBEDDING, np.float32))

    tensor("token_embd.weight", vocabulary, EMBEDDING)
    tensor("output.weight", vocabulary, EMBEDDING)
    ones("output_norm.weight")
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        ones(block + "attn_norm.weight")
        ones(block + "ffn_norm.weight")
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"{block}{part}.weight", EMBEDDING, EMBEDDING)
        tensor(block + "ffn_gate.weight", FEED_FORWARD, EMBEDDING)
        tensor(block + "ffn_up.weight", FEED_FORWARD, EMBEDDING)
        tensor(block + "ffn_down.weight", EMBEDDING, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: "gguf.GGUFWriter") -> int:  # type: ignore[name-defined]  # noqa: F821 - imported on use
    import gguf

    kinds = gguf.TokenType
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    tokens += [f"▁w{word}".encode() for word in range(WORDS)]
    types += [kinds.NORMAL] * WORDS
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    return len(tokens)
