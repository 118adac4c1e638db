"""What an engine shows -> its state, whether it lives, whether it is ready, and the reason."""

import pytest

from agent.collect.engines.health import Judged, in_life, judge
from agent.core.readings import EngineState
from agent.engines.contract import EngineFile
from tests.support.engine_scrape import MADE_UP, PAGELESS, looked
from tests.support.http import Reply, answer, drip, held, raw, told_server

PAGE = answer(b"made_up_running 3\n")
OK = answer(b"ok")
SLOW = drip(b"made_up_running 3\n", 0.05)

# what each path answers -> state, live, ready, words of the reason
CASES: dict[str, tuple[EngineFile, dict[str, Reply], EngineState, bool, bool | None, str]] = {
    "well": (MADE_UP, {"/metrics": PAGE, "/ready": OK}, "ready", True, True, ""),
    "does not say whether it is ready": (MADE_UP, {"/metrics": PAGE}, "ready", True, None, ""),
    "engine dead behind its front end": (
        MADE_UP, {"/metrics": PAGE, "/ready": answer(b"EngineDeadError", status=503)}, "not_ready", True, False,
        "/ready of Made Up answers 503 (EngineDeadError)",
    ),
    "500": (MADE_UP, {"/metrics": PAGE, "/ready": answer(b"", status=500)}, "not_ready", True, False, "answers 500"),
    "readiness hangs": (MADE_UP, {"/metrics": PAGE, "/ready": held}, "not_ready", True, False, "did not answer"),
    "metrics are off": (MADE_UP, {"/ready": OK}, "ready", True, True, "answers 404: no metrics there. start it"),
    "metrics want a token": (
        MADE_UP, {"/new/metrics": answer(b"", status=401), "/ready": OK}, "ready", True, True, "token_file"
    ),
    "metrics take too long": (MADE_UP, {"/new/metrics": SLOW, "/ready": OK}, "ready", True, True, "not answer in full"),
    "faults on the page": (
        MADE_UP, {"/new/metrics": answer(b"made_up_running 3\nx\n"), "/ready": OK}, "ready", True, True, "has faults"
    ),
    "lives, and shows nothing": (MADE_UP, {"/live": OK}, "ready", True, None, "--made-up-metrics"),
    "its API answers": (MADE_UP, {"/stats": answer(b'{"running": 1}')}, "ready", True, None, "--made-up-metrics"),
    "page says 503": (MADE_UP, {"/new/metrics": answer(b"", status=503)}, "not_ready", True, None, "answers 503"),
    "page says 503, and it lives": (
        MADE_UP, {"/new/metrics": answer(b"", status=503), "/live": OK}, "not_ready", True, False, "answers 503"
    ),
    "another engine's page": (
        MADE_UP, {"/new/metrics": answer(b"llamacpp:requests_processing 1\n"), "/ready": OK}, "unknown_format", True,
        None, "is llamacpp, and the config says kind: made_up",
    ),
    "nothing of it is understood": (MADE_UP, {}, "unknown_format", True, None, "answers 404"),
    "a broken proxy before it": (
        MADE_UP, dict.fromkeys(("/new/metrics", "/metrics", "/load", "/live"), answer(b"", status=502)), "down",
        False, False, "HTTP status 502",
    ),
    "without a page, well": (PAGELESS, {"/load": answer(b'{"running": 1}')}, "ready", True, None, ""),
    "without a page, lives": (PAGELESS, {"/": OK}, "ready", True, None, ""),
    "without a page, something else": (
        PAGELESS, {"/load": answer(b"<html>")}, "unknown_format", True, None,
        "does not look like Pageless: /load answers something else, / answers 404. Is the port right?",
    ),
    "nothing": (MADE_UP, dict.fromkeys(("/new/metrics", "/load", "/ready", "/live"), raw(b"")), "down", False, False,
                "closed the connection"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_judge(case: str) -> None:
    engine, replies, state, live, ready, words = CASES[case]
    async with told_server(replies) as server:
        judged = judge(await looked(server.url, engine, timeout=0.4))
    assert (judged.state, judged.live, judged.ready) == (state, live, ready)
    assert words in judged.reason
    assert bool(words) == bool(judged.reason)


async def test_what_a_request_for_a_token_showed_counts_unless_it_says_itself_that_it_is_not_ready() -> None:
    stuck = Judged(state="not_ready", reason="it does not generate", live=True, ready=False)
    good = Judged(state="ready", live=True, ready=True)
    async with told_server({"/metrics": PAGE, "/ready": OK}) as server:
        look = await looked(server.url)
        assert judge(look, stuck) is stuck
        assert judge(look, good).ready is True
        server.replies["/ready"] = answer(b"", status=503)
        assert judge(await looked(server.url), good).ready is False


LOADING = Judged(state="not_ready", reason="answers 503", live=True, ready=False)
REFUSED = Judged(state="down", reason="nothing listens", live=False, ready=False, silent=True)
OTHER = Judged(state="down", reason="wants TLS", live=False, ready=False)
WELL = Judged(state="ready", live=True)


@pytest.mark.parametrize(
    ("judged", "started", "process_runs", "state", "live"),
    [
        (LOADING, False, False, "starting", True),
        (LOADING, True, True, "not_ready", True),
        (REFUSED, False, False, "down", False),
        (REFUSED, False, True, "starting", False),
        (REFUSED, True, True, "down", False),
        (OTHER, False, False, "down", False),
        (OTHER, False, True, "unknown_format", True),
        (OTHER, True, True, "unknown_format", True),
        (WELL, False, False, "ready", True),
    ],
)
def test_in_life(judged: Judged, started: bool, process_runs: bool, state: EngineState, live: bool) -> None:
    found = in_life(judged, started=started, process_runs=process_runs)
    assert (found.state, found.live) == (state, live)
    assert judged.reason in found.reason


async def test_silence_is_told_from_another_protocol() -> None:
    async with told_server(dict.fromkeys(("/new/metrics", "/load", "/ready", "/live"), held)) as server:
        assert judge(await looked(server.url, timeout=0.2)).silent
        server.replies["/ready"] = raw(b"SSH-2.0-x\r\n")
        assert not judge(await looked(server.url, timeout=0.2)).silent
    assert judge(await looked(server.url, timeout=0.2)).silent  # nobody listens any more
