"""Settings of the API → what decides at its gate: who somebody is, and how often they may ask."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.api.settings import ApiSettings
from agent.clock import boot_ns
from agent.doors.identity import Identity
from agent.doors.keeper import Doorkeeper
from agent.doors.limits import RateLimiter
from agent.doors.settings import LimitSettings, is_loopback

COMPLAINTS_PER_SECOND = 1 / 60  # a refused caller is named in the log so often, whatever it sends


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What decides. `identify` takes the Authorization header and the names of a verified client certificate, and
    raises `Denied`. The limiters' keys are source addresses.
    """

    identify: Callable[[str | None, Sequence[str]], Identity]
    limits: LimitSettings
    requests: RateLimiter
    failures: RateLimiter
    complaints: RateLimiter = field(default_factory=lambda: RateLimiter(COMPLAINTS_PER_SECOND, 1))
    boot_ns: Callable[[], int] = boot_ns
    errors: Callable[[], Sequence[str]] = tuple  # files of credentials that cannot be used as they are now


def doors_of(settings: ApiSettings) -> Doors:
    """The doors of `api.listen`. Raises `ConfigError` for files of credentials that cannot be read."""
    limits = settings.limits
    keeper = Doorkeeper(settings.auth, key="api.auth", loopback=is_loopback(settings.listen))
    return Doors(
        identify=keeper.identify,
        limits=limits,
        requests=RateLimiter(limits.requests_per_second, limits.burst),
        failures=RateLimiter(limits.failures_per_minute / 60, limits.failures_burst),
        errors=lambda: keeper.errors,
    )
