"""JSON bodies in, the parts of them that an engine file names out. Nothing in a body is an error here."""

from collections.abc import Mapping
from typing import Any

import msgspec

from agent.engines.contract import Bodies


def decode(types: Mapping[str, Any], answers: Mapping[str, bytes]) -> Bodies:
    """Path -> body, of those answers that have the shape the engine file expects."""
    found: dict[str, Any] = {}
    for path, kind in types.items():
        if path not in answers:
            continue
        try:
            found[path] = msgspec.json.decode(answers[path], type=kind, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # another version's shape, or nonsense: what it would have told stays absent
    return found
