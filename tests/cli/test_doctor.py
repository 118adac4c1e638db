import json
from pathlib import Path

from tests.support.agent import agent, free_port
from tests.support.command_line import engineroom


def test_it_asks_the_running_agent(tmp_path: Path) -> None:
    with agent(tmp_path / "data", "--simulate-gpus", "h100x8") as running:
        running.ready()
        url = f"http://127.0.0.1:{running.api}"
        told = engineroom("doctor", "--url", url)
        found = json.loads(engineroom("doctor", "--url", url, "--json").out)
    assert told.err == ""
    assert len(told.out.splitlines()) == max(1, len(found))
    assert told.status == int(any(finding["severity"] == "broken" for finding in found))


def test_no_agent_and_no_token_are_said() -> None:
    nobody = engineroom("doctor", "--url", f"http://127.0.0.1:{free_port()}")
    assert nobody.status == 2
    assert "is `engineroom run` running?" in nobody.err
    missing = engineroom("doctor", "--url", "http://127.0.0.1:1", "--token-file", "no/such")
    assert missing.status == 2
    assert "no/such cannot be read" in missing.err
