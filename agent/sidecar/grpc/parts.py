"""The sidecar's parts → what gRPC needs of them. Imports h2, so it is loaded when the first client speaks HTTP/2."""

from dataclasses import dataclass

from agent.sidecar.crowd.crowd import Crowd
from agent.sidecar.forward import Forwarder
from agent.sidecar.grpc.forwarder import GrpcForwarder
from agent.sidecar.grpc.services import GrpcServices
from agent.sidecar.grpc.upstream import connector
from agent.sidecar.sockets.addresses import parse_upstream
from agent.sidecar.sockets.dialling import dialler


@dataclass(frozen=True, slots=True)
class _Times:
    request_timeout_seconds: float
    first_byte_timeout_seconds: float | None
    client_idle_seconds: float


def make_grpc(forwarder: Forwarder, crowd: Crowd | None = None) -> GrpcForwarder:
    """With a crowd its limit of requests a second holds for calls too. Raises `ConfigError` for unusable TLS files."""
    settings = forwarder.settings
    url = settings.grpc.upstream or (settings.upstreams[0].url if settings.upstreams else settings.upstream)
    address = parse_upstream(url)
    dial = dialler(settings.dial, (address,), key="sidecar.dial", protocols=("h2",))
    times = _Times(settings.request_timeout_seconds, settings.first_byte_timeout_seconds, settings.limits.idle_seconds)
    return GrpcForwarder(
        GrpcServices(
            settings=settings.grpc,
            times=times,
            clock=forwarder.clock,
            recorder=forwarder.recorder,
            authority=address.name,
            host=address.authority,
            secure=address.tls,
            connect=connector(dial, address),
            identify=forwarder.tenancy.identify,
            rewrite=forwarder.tenancy.rewrite,
            quotas=forwarder.quotas,
            too_many=crowd.request if crowd is not None and settings.limits.requests_per_second is not None else None,
            group=forwarder.group,
        )
    )
