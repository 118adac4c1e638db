import json

import pytest

from agent.sidecar.asks import Refusal, refusal_answer

QUOTA = Refusal(429, "rate_limit_exceeded", "too many tokens per minute for acme", 1.2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/chat/completions",
            {"error": {"message": QUOTA.message, "type": "rate_limit_error", "param": None, "code": QUOTA.code}},
        ),
        ("/v1/messages", {"type": "error", "error": {"type": "rate_limit_error", "message": QUOTA.message}}),
        ("/api/chat", {"error": QUOTA.message}),
    ],
)
def test_a_refusal_has_the_shape_that_the_clients_of_its_path_read(path: str, body: object) -> None:
    head, _, content = refusal_answer(QUOTA, path, b"x-engineroom-request-id: 1\r\n").partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"HTTP/1.1 429 Too Many Requests"
    assert b"retry-after: 2" in lines
    assert b"x-engineroom-request-id: 1" in lines
    assert b"content-length: %d" % len(content) in lines
    assert json.loads(content) == body


def test_the_answer_to_a_head_request_has_no_body_but_its_length() -> None:
    answer = refusal_answer(Refusal(402, "budget_exceeded", "no money left"), "/v1/x", head_only=True)
    assert answer.startswith(b"HTTP/1.1 402 Payment Required\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"retry-after" not in answer
