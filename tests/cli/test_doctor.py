import json
from pathlib import Path

from agent.cli.doctor import lines
from tests.support.agent import agent, free_port
from tests.support.command_line import engineroom


def test_it_asks_the_running_agent(tmp_path: Path) -> None:
    with agent(tmp_path / "data", "--simulate-gpus", "h100x8") as running:
        running.ready()
        url = f"http://127.0.0.1:{running.api}"
        told = engineroom("doctor", "--url", url)
        found = json.loads(engineroom("doctor", "--url", url, "--json").out)
        told_all = engineroom("doctor", "--url", url, "--notes")
    assert told.err == ""
    notes = [finding for finding in found if finding["severity"] == "note"]
    assert len(told.out.splitlines()) == max(1, len(found) - len(notes)) + bool(notes)
    assert len(told_all.out.splitlines()) == max(1, len(found))
    assert told.status == int(any(finding["severity"] == "broken" for finding in found))


def test_no_agent_and_no_token_are_said() -> None:
    nobody = engineroom("doctor", "--url", f"http://127.0.0.1:{free_port()}")
    assert nobody.status == 2
    assert "is `engineroom run` running?" in nobody.err
    missing = engineroom("doctor", "--url", "http://127.0.0.1:1", "--token-file", "no/such")
    assert missing.status == 2
    assert "no/such cannot be read" in missing.err


LONG = {
    "severity": "missing",
    "subject": "engines a, b",
    "text": "no timeout: vLLM counts none; put the sidecar in front of it, which does",
}
BROKEN = {"severity": "broken", "subject": "engine c", "text": "down"}
NOTE = {"severity": "note", "subject": "GPU 0", "text": "\x1b[2J is no engine"}


def test_lines_are_folded_to_the_terminal_and_notes_are_counted() -> None:
    assert lines([BROKEN, LONG, NOTE], columns=50) == [
        "BROKEN  engine c: down",
        "MISSING engines a, b: no timeout: vLLM counts",
        "        none; put the sidecar in front of it,",
        "        which does",
        "1 note: engineroom doctor --notes",
    ]
    assert lines([BROKEN, NOTE], notes=True)[1] == "note    GPU 0: \\x1b[2J is no engine"
    assert lines([NOTE, NOTE]) == ["nothing is missing", "2 notes: engineroom doctor --notes"]
    assert lines([]) == ["nothing is missing"]
