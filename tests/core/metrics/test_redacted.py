import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.metrics.exposition import Exposition
from agent.core.metrics.redacted import MODELS, NUMBERS, PATHS, WORDS, Redactor

SECRET = "sk-5ecr3t"
PAGE = f"""# HELP vllm:request_success_total The prompt was {SECRET}
# TYPE vllm:request_success_total counter
# {SECRET}
# TYPE {SECRET}
# UNIT vllm:time_seconds seconds
# UNIT vllm:time_seconds {SECRET}
vllm:request_success_total{{model_name="Qwen/Qwen3-32B",finished_reason="stop",engine="0",}} 7 # {{trace="{SECRET}"}} 1
vllm:request_success_total{{user="{SECRET}",api_key="a}}\\"{SECRET}",finished_reason="length"}} 1e3 1712345678.5
vllm:request_success_total{{user="{SECRET}",engine="{SECRET}"}} NaN
{SECRET} 7
vllm:broken{{user="{SECRET} 7
vllm:broken{{user={SECRET}}} 7
vllm:broken {SECRET}
{{"utf8.{SECRET}"}} 1

plain 0
# EOF
"""
KEPT = """# TYPE vllm:request_success_total counter
# UNIT vllm:time_seconds seconds
vllm:request_success_total{model_name="Qwen/Qwen3-32B",finished_reason="stop",engine="0"} 7
vllm:request_success_total{user="redacted-1",api_key="redacted-2",finished_reason="length"} 1e3 1712345678.5
vllm:request_success_total{user="redacted-1",engine="redacted-1"} NaN

plain 0
# EOF
"""


def test_only_what_is_known_to_be_harmless_stays() -> None:
    redactor = Redactor()
    assert redactor.page(PAGE.encode()).decode() == KEPT
    assert redactor.redacted == {"user", "api_key", "engine"}
    assert redactor.left_out == 5
    assert SECRET not in KEPT


def test_paths_of_servers_stay_and_what_clients_make_up_does_not() -> None:
    page = b'a{handler="/v1/completions",endpoint="/alice/diary"} 1\n'
    assert Redactor().page(page) == b'a{handler="/v1/completions",endpoint="redacted-1"} 1\n'


def test_names_are_hidden_where_that_is_wanted() -> None:
    redactor = Redactor(hide_names=True)
    kept = redactor.page(b'a{model_name="x"} 1\nb{model="x",other="y"} 1\n')
    assert kept == b'a{model_name="redacted-1"} 1\nb{model="redacted-1",other="redacted-2"} 1\n'
    assert redactor.body({"data": [{"id": "x", "owned_by": "vllm"}], "version": "0.33.0"}) == {
        "data": [{"id": "redacted-1", "owned_by": "vllm"}],
        "version": "0.33.0",
    }


def test_an_engine_file_may_name_words_of_its_own() -> None:
    page = b'a{phase="prefill"} 1\na{phase="write me a poem"} 1\n'
    assert Redactor({"phase"}).page(page) == b'a{phase="prefill"} 1\na{phase="redacted-1"} 1\n'


@pytest.mark.parametrize("text", ["x" * 201, "two\nlines", "\x1b[2J"])
def test_what_looks_like_no_name_is_none(text: str) -> None:
    assert Redactor().name(text) == "redacted-1"
    assert Redactor().body({"owned_by": text, "numbers": [1, None, True]}) == {
        "owned_by": "redacted-1",
        "numbers": [1, None, True],
    }


LABELS = st.one_of(
    st.sampled_from(sorted(NUMBERS | PATHS | WORDS)), st.from_regex(r"[a-z_][a-z0-9_]{0,10}", fullmatch=True)
)


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


@given(st.dictionaries(LABELS, st.text(), min_size=1), st.text(), st.text())
def test_a_free_text_never_comes_through(labels: dict[str, str], help_text: str, comment: str) -> None:
    """A text is marked with what no word and no number holds; whatever the label, the mark is gone."""
    mark = "\N{OLD PERSIAN SIGN XSHAAYATHIYA}"
    pairs = ",".join(f'{name}="{escaped(mark + value)}"' for name, value in labels.items() if name not in MODELS)
    safe = [text.replace("\n", " ") for text in (help_text, comment)]
    page = f'# HELP m {mark}{safe[0]}\n# {mark}{safe[1]}\nm{{{pairs}}} 1 # {{x="{mark}"}} 1\n'
    kept = Redactor().page(page.encode())
    assert mark not in kept.decode()
    assert kept.startswith(b"m{")


@given(st.text())
def test_no_page_is_too_strange(page: str) -> None:
    kept = Redactor().page(page.encode("utf-8", "surrogatepass"))
    Exposition().parse(kept)
    assert Redactor().page(kept) == kept


def test_every_recorded_page_reads_as_before() -> None:
    from tests.engines.test_captures import PAGES

    assert PAGES
    for folder in PAGES:
        before = Exposition().parse((folder / "metrics.prom").read_bytes())
        redactor = Redactor()
        after = Exposition().parse(redactor.page((folder / "metrics.prom").read_bytes()))
        assert [(s.key.name, repr(s.value)) for s in after.samples] == [
            (s.key.name, repr(s.value)) for s in before.samples
        ]
        assert {k: f.type for k, f in after.families.items()} == {k: f.type for k, f in before.families.items()}
        assert redactor.left_out == 0
