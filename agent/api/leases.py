"""``POST /ingest/v1/leases``: a sidecar's msgpack renewal → the lease desk → its part of every limit."""

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from agent.api.access import caller
from agent.api.ingest import MAX_REASON, MEDIA_TYPE, sender_of
from agent.api.problems import Problem, unavailable
from agent.api.services import NodeServices
from agent.core.ports import TryLater
from agent.core.quotas.leases import LEASE_VERSION, MAX_CLAIMS, LeaseRequest
from agent.runners.leases import LateRenewal

MAX_NAME = 256
MAX_NUMBER = 1 << 62
UNREADABLE_RENEWAL = "urn:engineroom:problem:unreadable-renewal"

_decoder = msgspec.msgpack.Decoder(LeaseRequest)
_encoder = msgspec.msgpack.Encoder()


def leases_router(node: NodeServices) -> APIRouter:
    """The path under ``/ingest``. A wrong body is answered 400, a late renewal 409."""
    router = APIRouter(prefix="/ingest/v1", tags=["Ingest"])

    @router.post("/leases", summary="A sidecar renews its parts of the quotas, as msgpack.", response_class=Response)
    async def leases(request: Request) -> Response:
        identity = caller(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != MEDIA_TYPE:
            raise Problem(415, "Wrong content type", f"Content-Type is {kind or 'missing'}.", f"Send {MEDIA_TYPE}.")
        renewal = read_renewal(await request.body(), identity.tenant)
        try:
            answer = node.lease(sender_of(identity), identity.tenant, renewal)
        except LateRenewal as error:
            raise Problem(409, "Late renewal", f"{error}.", "Send the next one.") from error
        except TryLater as error:
            raise unavailable("Cannot grant leases now", error) from error
        return Response(_encoder.encode(answer), media_type=MEDIA_TYPE)

    return router


def read_renewal(body: bytes, tenant: str | None = None) -> LeaseRequest:
    """The renewal of a sender that may be limited to one tenant. Raises `Problem` that says what was wrong."""
    try:
        renewal = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(f"The body is not a LeaseRequest in msgpack: {f'{error}'[:MAX_REASON]}.") from error
    if renewal.schema_version != LEASE_VERSION:
        raise _unreadable(f"It has schema version {renewal.schema_version}; this agent reads {LEASE_VERSION}.")
    wrong = objection(renewal)
    if wrong is not None:
        raise _unreadable(f"The renewal cannot be: {wrong}.")
    foreign = next((claim for claim in renewal.claims if tenant is not None and claim.tenant != tenant), None)
    if foreign is not None:
        detail = f"Your credentials are limited to the tenant {tenant}, and a claim is for another."
        raise Problem(403, "Not allowed", detail, "Use credentials of the sidecar's own.")
    return renewal


def objection(renewal: LeaseRequest) -> str | None:
    """Why the values of a renewal cannot be; None when they can."""
    if not 0 < len(renewal.sidecar) <= MAX_NAME:
        return f"the sidecar's name has {len(renewal.sidecar)} characters, expected 1 to {MAX_NAME}"
    if not (0 <= renewal.epoch < MAX_NUMBER and 0 <= renewal.number < MAX_NUMBER):
        return "epoch or number is out of range"
    if len(renewal.claims) > MAX_CLAIMS:
        return f"it has {len(renewal.claims)} claims, at most {MAX_CLAIMS} are taken"
    for index, claim in enumerate(renewal.claims):
        if max(len(claim.rule), len(claim.tenant), len(claim.kind)) > MAX_NAME:
            return f"claim {index} has a name of more than {MAX_NAME} characters"
        if not all(0 <= number < MAX_NUMBER for number in (claim.used, claim.peak, claim.wanted, claim.allowance)):
            return f"claim {index} has a number out of range"
    return None


def _unreadable(detail: str) -> Problem:
    remedy = "Sidecar and agent must be of the same or neighbouring versions."
    return Problem(400, "Unreadable renewal", detail, remedy, kind=UNREADABLE_RENEWAL)
