"""A folder in; the model of nine words that vLLM's front end reads for its tokenizer and its limits out."""

import json
from pathlib import Path
from typing import Any

END = 2  # the token that ends an answer
_WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "hello": 3, "user": 4, "assistant": 5, "there": 6, "you": 7, "all": 8}


def write_model(folder: Path) -> Path:
    """A model's folder as far as a front end reads it."""
    folder.mkdir()
    special = [{"id": at, "content": word, "special": True} for word, at in _WORDS.items() if word.startswith("<")]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    files: dict[str, Any] = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "num_hidden_layers": 2,
            "vocab_size": len(_WORDS),
            "max_position_embeddings": 2048,
            "bos_token_id": 1,
            "eos_token_id": END,
        },
        "tokenizer.json": {
            "version": "1.0",
            "added_tokens": [one | flags for one in special],
            "pre_tokenizer": {"type": "Whitespace"},
            "model": {"type": "WordLevel", "vocab": _WORDS, "unk_token": "<unk>"},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "chat_template": "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}assistant",
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder
