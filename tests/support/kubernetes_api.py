"""The part of the Kubernetes API server that lists pods, over real TLS, as its documentation says it behaves.

Pods are the JSON objects in `ApiServer.pods`. Pages by `limit` and `continue`; a token of a next page may expire (410).
With resourceVersion=0 it answers from its cache, in one piece, as API servers do. Everything that was asked is kept.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web

from tests.support.credentials import Authority, make_ca, put

NODE = "gpu-node-1"


@dataclass(slots=True)
class ApiServer:
    """What it knows, what it refuses, and what it was asked."""

    port: int = 0
    token: str = "first-token"
    pods: list[dict[str, Any]] = field(default_factory=list)
    refuse: int = 0  # answer this status to everybody
    body: bytes | None = None  # answer this instead of a list
    location: str = ""  # with `refuse`: where it points to
    pages: bool = False  # page also with resourceVersion=0, as some do
    expire: int = 0  # so many tokens of next pages are too old
    hang: asyncio.Event | None = None  # answer when this is set
    asked: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.path_qs}")
        self.headers.append(dict(request.headers))
        if self.hang is not None:
            await self.hang.wait()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        if self.refuse:
            words = 'pods is forbidden: User "system:serviceaccount:e:agent" cannot list resource "pods"'
            return _status(self.refuse, words, {"Location": self.location} if self.location else {})
        if request.path != "/api/v1/pods" or request.method != "GET":
            return _status(404, "the server could not find the requested resource")
        if self.body is not None:
            return web.Response(body=self.body, content_type="application/json")
        return self._list(parse_qs(urlsplit(request.path_qs).query))

    def _list(self, query: dict[str, list[str]]) -> web.Response:
        token = query.get("continue", [""])[0]
        if token and "resourceVersion" in query:
            return _status(400, "specifying resource version is not allowed when using continue")
        if token and self.expire:
            self.expire -= 1
            return _status(410, "The provided continue parameter is too old")
        selector = query.get("fieldSelector", [""])[0]
        node = selector.removeprefix("spec.nodeName=")
        found = [pod for pod in self.pods if not selector or pod["spec"].get("nodeName") == node]
        cached = query.get("resourceVersion") == ["0"] and not self.pages
        limit = int(query.get("limit", ["0"])[0]) if not cached else 0
        first = int(token or 0)
        page = found[first : first + limit] if limit else found[first:]
        more = str(first + limit) if limit and first + limit < len(found) else ""
        metadata = {"resourceVersion": "12345", **({"continue": more} if more else {})}
        return web.json_response({"kind": "PodList", "apiVersion": "v1", "metadata": metadata, "items": page})


def _status(code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
    return web.json_response(body, status=code, headers=headers)


@asynccontextmanager
async def api_server(folder: Path, ca: Authority | None = None) -> AsyncIterator[ApiServer]:
    """Serve on loopback; `folder` becomes the pod's ServiceAccount folder, with `token` and `ca.crt`."""
    authority = ca or make_ca()
    server = ApiServer()
    certificate, key = authority.issue("kubernetes", dns=("kubernetes",), addresses=("127.0.0.1",)).write(folder)
    authority.write(folder)
    put(folder / "token", server.token.encode())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()


def environ(server: ApiServer) -> dict[str, str]:
    """The environment of a pod of this cluster."""
    return {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT": str(server.port),
        "NODE_NAME": NODE,
    }


def pod(
    name: str,
    *containers: dict[str, Any],
    namespace: str = "serving",
    address: str = "10.244.0.5",
    node: str = NODE,
    phase: str = "Running",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    uid: str = "",
    host_network: bool = False,
    running: bool = True,
) -> dict[str, Any]:
    """A pod as the API server shows it, with fields that nobody here reads, too."""
    statuses = [
        {
            "name": one["name"],
            "ready": True,
            "image": one["image"],
            "containerID": one.pop("id", ""),
            "state": {"running": {"startedAt": "2026-11-23T00:00:00Z"}} if running else {"waiting": {"reason": "x"}},
        }
        for one in containers
    ]
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-of-{name}",
            "labels": labels,
            "annotations": annotations,
            "managedFields": [{"manager": "kubectl"}],
        },
        "spec": {"nodeName": node, "containers": list(containers), "hostNetwork": host_network},
        "status": {"phase": phase, "podIP": address, "hostIP": "10.0.0.1", "containerStatuses": statuses},
    }


def container(
    name: str = "engine",
    image: str = "registry.example:5000/team/alpha-openai:v1@sha256:0",
    *,
    ports: Iterable[tuple[int, str]] = (),
    args: Iterable[str] = (),
    env: dict[str, str] | None = None,
    container_id: str = "",
) -> dict[str, Any]:
    """A container of a pod; `container_id` without its runtime."""
    variables = [{"name": name, "value": value} for name, value in (env or {}).items()]
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}
    return {
        "name": name,
        "image": image,
        "args": list(args),
        "env": [*variables, secret],
        "ports": [{"containerPort": port, "name": called, "protocol": "TCP"} for port, called in ports],
        "id": f"containerd://{container_id}" if container_id else "",
    }


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()
