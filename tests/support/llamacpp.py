"""A real llama.cpp server for tests: a tiny random model made on the spot, served by a child process on a free port."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

MODEL = "tiny-random"
_WIDTH, _LAYERS, _HEADS, _INNER, _WORDS, _CONTEXT = 64, 2, 4, 128, 64, 2048


def make_model(path: Path) -> Path:
    """Write a llama-architecture GGUF of about half a megabyte: random weights, one token for each byte."""
    gguf = pytest.importorskip("gguf", reason="the gguf package makes the tiny model (extra `demo`)")
    import numpy as np

    random = np.random.default_rng(20261123)
    specials = [b"<unk>", b"<s>", b"</s>"]
    tokens = specials + [b"<0x%02X>" % value for value in range(256)]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL] + [gguf.TokenType.BYTE] * 256
    tokens += [f"\u2581w{number}".encode() for number in range(_WORDS)]
    kinds += [gguf.TokenType.NORMAL] * _WORDS

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(MODEL)
    writer.add_context_length(_CONTEXT)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")

    def matrix(name: str, rows: int, columns: int) -> None:
        writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.05).astype(np.float32))

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(_WIDTH, np.float32))

    matrix("token_embd.weight", len(tokens), _WIDTH)
    matrix("output.weight", len(tokens), _WIDTH)
    ones("output_norm.weight")
    for layer in range(_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            ones(f"blk.{layer}.{norm}.weight")
        for square in ("attn_q", "attn_k", "attn_v", "attn_output"):
            matrix(f"blk.{layer}.{square}.weight", _WIDTH, _WIDTH)
        for wide in ("ffn_gate", "ffn_up"):
            matrix(f"blk.{layer}.{wide}.weight", _INNER, _WIDTH)
        matrix(f"blk.{layer}.ffn_down.weight", _WIDTH, _INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@dataclass(frozen=True)
class LlamaServer:
    """A running server. `url` has no trailing slash."""

    url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str) -> bytes:
        with urlopen(self.url + path, timeout=10) as answer:
            body: bytes = answer.read()
            return body

    def complete(self, prompt: str, tokens: int) -> dict[str, object]:
        """One completion of up to `tokens` tokens, not streamed."""
        question = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        request = Request(
            self.url + "/v1/completions", json.dumps(question).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=30) as answer:
            reply: dict[str, object] = json.load(answer)
            return reply


@contextmanager
def llama_server(folder: Path, *, metrics: bool = True) -> Iterator[LlamaServer]:
    """Start the real server with the tiny model; it is ready when this yields, and gone when the body ends."""
    pytest.importorskip("xllamacpp", reason="xllamacpp is the real llama.cpp server (extra `demo`)")
    model = make_model(folder / "tiny.gguf")
    command = [sys.executable, "-P", __file__, str(model), "metrics" if metrics else "no-metrics"]
    with (folder / "llama.log").open("wb") as errors:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            url = next((line[4:].decode().strip() for line in child.stdout if line.startswith(b"url ")), None)
            assert url, f"the llama.cpp server did not start:\n{(folder / 'llama.log').read_text()[-2000:]}"
            yield LlamaServer(url, child.pid)
        finally:
            child.stdin.close()  # the child ends at the end of its input, also when this process is killed
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            child.stdout.close()


def _serve(model: str, metrics: bool) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {MODEL} if isinstance(params.model_alias, set) else MODEL
    params.hostnames = ["127.0.0.1"] if isinstance(params.hostnames, list) else params.hostnames
    params.port = 0
    params.endpoint_metrics = metrics
    params.n_parallel = 2
    params.n_ctx = _CONTEXT
    params.n_gpu_layers = 0
    server = xllamacpp.Server(params)
    print("url", server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2] == "metrics")
