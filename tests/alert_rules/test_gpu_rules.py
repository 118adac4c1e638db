"""What gpu.yaml says of codes and actions is what our tables and runbooks say."""

from pathlib import Path

from agent.core.gpu_readings import RECOVERY_ACTIONS
from agent.core.xids import CRITICAL

ROOT = Path(__file__).resolve().parent.parent.parent


def test_the_codes_that_are_critical_are_those_of_the_table() -> None:
    named = (ROOT / "alert-rules" / "gpu.yaml").read_text().split('xid=~"')[1].split('"')[0]
    assert {int(code) for code in named.split("|")} == CRITICAL


def test_the_runbook_says_what_to_do_for_every_action() -> None:
    runbook = (ROOT / "docs" / "runbooks" / "GPURecoveryWanted.md").read_text()
    assert [action for action in RECOVERY_ACTIONS if action != "none" and f"`{action}`" not in runbook] == []
