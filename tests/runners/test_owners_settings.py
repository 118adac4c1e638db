"""The section `owners`: what it makes, and what it refuses."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from agent.core.cost.allocating import Owner
from agent.runners.owners_settings import OwnerSettings, owners

ADAPTER = TypeAdapter(tuple[OwnerSettings, ...])


def test_entries_become_owners_in_their_order() -> None:
    section = ADAPTER.validate_python(
        [
            {"tenant": "acme", "gpus": ["GPU-8f*", "MIG-1"], "engine": "vllm"},
            {"tenant": "zeta", "model": "llama", "namespace": "prod"},
        ]
    )
    assert owners(section) == (
        Owner("acme", ("GPU-8f*", "MIG-1"), "vllm"),
        Owner("zeta", (), None, "llama", "prod"),
    )
    assert owners(ADAPTER.validate_python([])) == ()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"tenant": "acme"}, "say which slots are reserved for 'acme'"),
        ({"tenant": "", "model": "m"}, "at least 1 character"),
        ({"gpus": ["*"]}, "Field required"),
        ({"tenant": "acme", "gpus": [""]}, "got an empty one"),
        ({"tenant": "acme", "gpu": ["GPU-1"]}, "Extra inputs"),
    ],
)
def test_what_it_refuses(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ADAPTER.validate_python([entry])
