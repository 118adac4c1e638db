from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.stat import ProcessStat, parse_stat

COLUMNS = " ".join(["S", "17", *["0"] * 17, "123456", "0", "0"])


@pytest.mark.parametrize("name", ["python3", "VLLM::Worker_TP0", "a (b) c", ") 1 (", "tab\there", ""])
def test_names_of_every_kind(name: str) -> None:
    assert parse_stat(f"42 ({name}) {COLUMNS}\n") == ProcessStat(name=name, parent=17, start_ticks=123456)


@pytest.mark.parametrize("text", ["", "42", "42 (x)", "42 (x) S 1 2", f"42 x {COLUMNS}", "42 (x) " + "q " * 30])
def test_what_is_no_stat_file(text: str) -> None:
    assert parse_stat(text) is None


def test_of_this_very_process() -> None:
    found = parse_stat(Path("/proc/self/stat").read_text())
    assert found is not None
    assert found.start_ticks > 0


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    parse_stat(text)
    parse_stat(f"42 ({text}) {COLUMNS}")
    parse_stat(f"42 (x) {text}")
