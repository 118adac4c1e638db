from typing import get_args

from agent.core.findings import ORDER, Severity


def test_every_severity_has_its_place() -> None:
    assert set(ORDER) == set(get_args(Severity))
