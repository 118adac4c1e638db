"""Command lines and environments as processes leave them."""

from hypothesis import given
from hypothesis import strategies as st

from agent.core.discovery.command import MAX_COMMAND_BYTES, variables, words

WORD = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), min_size=1)


def test_words_and_titles() -> None:
    assert words(b"vllm\0serve\0--port\08001\0") == ("vllm", "serve", "--port", "8001")
    assert words(b"") == words(b"\0\0\0") == ()
    assert words(b"a\0\0b\0") == ("a", "", "b")
    # A title is written over the old words: the rest of them is NULs, or spaces.
    assert words(b"VLLM::Worker_TP0\0\0\0\0\0\0") == ("VLLM::Worker_TP0",)
    assert words(b"sglang::scheduler_TP0                     ") == ("sglang::scheduler_TP0",)
    assert words(b"ray::RayWorkerWrapper.execute_method\0    \0") == ("ray::RayWorkerWrapper.execute_method",)


def test_bytes_that_are_no_text_and_lines_without_end() -> None:
    assert words(b"\xff\xfevllm\0serve") == ("��vllm", "serve")
    long = words(b"vllm\0" + b"x" * 2**20)
    assert long[0] == "vllm"
    assert sum(map(len, long)) < MAX_COMMAND_BYTES


def test_only_variables_that_were_named_are_kept() -> None:
    environ = b"HF_TOKEN=secret\0RANK=1\0RANK=2\0=\0odd\0OLLAMA_HOST=0.0.0.0:1\xff\0"
    assert variables(environ, {"RANK", "OLLAMA_HOST", "HOME"}) == {"RANK": "1", "OLLAMA_HOST": "0.0.0.0:1�"}


@given(st.lists(WORD, min_size=1, max_size=20))
def test_any_words_come_back(argv: list[str]) -> None:
    line = "\0".join(argv).encode() + b"\0"
    if not argv[-1].endswith(" "):
        assert words(line) == tuple(argv)


@given(st.binary())
def test_no_bytes_are_an_error(line: bytes) -> None:
    words(line)
    variables(line, {"A"})
