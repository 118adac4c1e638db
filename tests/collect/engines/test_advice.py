"""What an engine does not tell, in the words of its file."""

from msgspec.structs import replace

from agent.collect.engines.advice import Adviser, of_target, present_in
from agent.collect.engines.diagnosis import Unread
from agent.collect.engines.look import Look
from agent.collect.engines.targets import EngineTarget
from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.contract import Page
from tests.support.engine_scrape import MADE_UP, PAGELESS

READING = EngineReading(engine="e", kind="k", url="u", model="m", read_at_ns=1, requests_running=0.0)
COUNTED = replace(READING, tokens_total={"output": 0.0}, requests_total={"ok": 1.0})


def test_what_is_zero_is_told() -> None:
    assert present_in([READING]) == {"requests_running"}
    assert present_in([READING, COUNTED]) == {"requests_running", "tokens_total", "output", "requests_total", "ok"}


SHOWN = Look(MADE_UP, page=Page(scrape=Scrape()))
HIDDEN = Look(MADE_UP, unread=Unread("unknown_format", "answers 404"))
LATE = Look(MADE_UP, unread=Unread("down", "did not answer in full"))


def test_absent_signals_and_a_hidden_page() -> None:
    adviser = Adviser()
    assert [advice.signal for advice in adviser.advise(SHOWN, [READING])] == ["queue_seconds"]
    hidden = adviser.advise(HIDDEN, [])
    assert [advice.signal for advice in hidden] == ["metrics", "queue_seconds", "requests_running"]
    assert hidden[0].text == "start it with --made-up-metrics"
    assert [advice.signal for advice in adviser.advise(Look(PAGELESS), [])] == ["metrics"]


def test_made_anew_only_when_something_changed() -> None:
    adviser = Adviser()
    first = adviser.advise(SHOWN, [READING])
    assert adviser.advise(SHOWN, [replace(READING, requests_running=5.0)]) is first
    assert adviser.advise(SHOWN, [COUNTED]) is not first


def test_a_page_that_is_late_says_nothing_new() -> None:
    adviser = Adviser()
    assert adviser.advise(LATE, []) == ()
    first = adviser.advise(SHOWN, [READING])
    assert adviser.advise(LATE, []) is first


def test_what_its_place_hides() -> None:
    far = EngineTarget(url="http://10.0.0.9:8000")
    here = EngineTarget(url="http://127.0.0.1:8000")
    assert of_target(far, sees_processes=False) == ()
    assert of_target(here, sees_processes=True) == ()
    (advice,) = of_target(here, sees_processes=False)
    assert (advice.signal, "CAP_SYS_PTRACE" in advice.text) == ("processes", True)
    assert of_target(replace(here, gpus=("0",)), sees_processes=False) == ()
    (advice,) = of_target(EngineTarget(unreachable="put the sidecar beside it"), sees_processes=True)
    assert (advice.signal, advice.text) == ("address", "put the sidecar beside it")
