import msgspec

from agent.core.quotas.leases import Claim, Grant, LeaseAnswer, LeaseRequest
from tests.support.quotas import policy, rule


def test_both_messages_travel_as_msgpack():
    claim = Claim("r", "acme", "tokens", 1, 2, 3, 4, True)
    request = LeaseRequest(sidecar="s", epoch=1, number=2, claims=(claim,))
    answer = LeaseAnswer(
        number=2, lease_ns=5, sidecars=3, place=1, revision="x", policy=policy(rule()), grants=(Grant(None, 1, 2),)
    )
    for message in (request, answer):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message)) == message


def test_a_newer_sidecar_may_say_more():
    said = msgspec.to_builtins(LeaseRequest(sidecar="s", epoch=1, number=2)) | {"new": 1}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=LeaseRequest).number == 2
