"""How a listener's credentials and certificates are doing → samples under the catalogue's names."""

from collections.abc import Iterator, Sequence

from agent.clock import NS
from agent.core.metrics.published import gauge
from agent.core.metrics.samples import Labels, Sample
from agent.doors.tls import ServerTls


def door_samples(node: str, listener: str, errors: Sequence[str], tls: ServerTls | None) -> Iterator[Sample]:
    """One listener, named by its setting such as ``api``. `errors`: files of credentials that cannot be used now."""
    base: Labels = (("node", node), ("listener", listener))
    broken = len(errors) + bool(tls is not None and tls.error)
    yield from gauge("engineroom_listener_unusable_files", broken, base)
    if tls is not None:
        expiry = tls.expires_at_ns / NS
        yield from gauge("engineroom_listener_certificate_expiry_timestamp_seconds", expiry, base)
