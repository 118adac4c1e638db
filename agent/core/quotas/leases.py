"""What a sidecar and its agent say to each other about limits: ``POST /ingest/v1/leases``, as msgpack.

A renewal says all that is in force at the sidecar; it is not a difference to the one before, so that lost, repeated
and late messages cost nothing but time. What a renewal does not name, the sidecar does not hold. Leases carry
durations, never instants: the two clocks are not compared.
"""

from msgspec import Struct

from agent.core.quotas.policy import Policy

LEASE_VERSION = 1
MAX_CLAIMS = 4000


class Claim(Struct, frozen=True, array_like=True):
    """One limit of one rule for one tenant, as it stands at the sidecar when it sends.

    `used` counts now; `peak` is the highest since the last renewal; `wanted` did not fit since then. More than
    `allowance` is not admitted until an answer says otherwise; `leased`: it is of a lease that is valid.
    Units: requests, tokens, nano-units.
    """

    rule: str
    tenant: str
    kind: str
    used: int
    peak: int
    wanted: int
    allowance: int
    leased: bool


class Grant(Struct, frozen=True, array_like=True):
    """Answer to one claim. `allowance` None: no lease now, do as while the agent is away.

    `elsewhere` counts at other sidecars; `limit` is the whole limit (of money: what is left of it, without what is not
    settled yet).
    """

    allowance: int | None
    elsewhere: int
    limit: int


class LeaseRequest(Struct, frozen=True, kw_only=True):
    """`number` grows with every renewal of an `epoch`; an older one that comes late is not looked at."""

    sidecar: str
    epoch: int
    number: int
    claims: tuple[Claim, ...] = ()
    revision: str = ""  # of the policy that the sidecar has
    leaving: bool = False  # the sidecar stops: it holds nothing any more
    schema_version: int = LEASE_VERSION


class LeaseAnswer(Struct, frozen=True, kw_only=True):
    """`grants` are in the order of the claims. Valid for `lease_ns` from the instant the renewal was sent.

    `place` of `sidecars` (from 0) says which part of a limit is this sidecar's while the agent is away. `prices` are
    nano-units of `currency` for a million input and output tokens, by model. `periods` tells for each rule with money
    how long the period still is. `hurry`: somebody waits for what this sidecar gives back now; say so at once.
    """

    number: int
    lease_ns: int
    sidecars: int
    place: int
    revision: str
    policy: Policy | None = None
    grants: tuple[Grant, ...] = ()
    prices: dict[str, tuple[int, int]] = {}
    currency: str = ""
    periods: dict[str, int] = {}
    hurry: bool = False
