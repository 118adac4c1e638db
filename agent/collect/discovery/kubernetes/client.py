"""The cluster's API server in, the running pods of this node out: listed anew each time, over verified TLS.

A list with resourceVersion=0 is answered from the API server's cache, where pods are indexed by node: it costs less
than to keep a watch open on each node, and a lost connection loses nothing. The token and the cluster's certificates
are read each time, since kubelet replaces them.
"""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import aiohttp
import anyio.to_thread
import msgspec
import structlog

from agent.clock import NS, boot_ns
from agent.collect.discovery.kubernetes.objects import Pod, decode_page
from agent.collect.discovery.kubernetes.settings import KubernetesSettings
from agent.core.ports import TryLater
from agent.core.workloads import Feature

log = structlog.get_logger()

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LIST_SECONDS = 30.0
KEEP_SECONDS = 120.0  # an address may become another pod's: for so long the last answer holds
TIMEOUT_SECONDS = 5.0  # a look at the processes waits for it
PAGE_PODS = 250
MAX_PAGE_BYTES = 32 * 2**20
_NEWS_NS = 5 * NS
_GONE = 410  # the token of the next page is too old: begin again
_RULE = 'a ClusterRole with the rule apiGroups [""], resources ["pods"], verbs ["get", "list"], bound to it'


class PodList:
    """`pods` are those of the last answer, None before the first; `feature` says what is wrong.

    `step` asks at most every `LIST_SECONDS`, and somebody who saw a pod that is not in the list, every few seconds.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        environ: Mapping[str, str] = os.environ,
        account: Path = SERVICE_ACCOUNT,
        *,
        list_seconds: float = LIST_SECONDS,
        timeout_seconds: float = TIMEOUT_SECONDS,
        keep_seconds: float = KEEP_SECONDS,
    ) -> None:
        self.pods: tuple[Pod, ...] | None = None
        self._settings = settings
        self._environ = environ
        self._account = account
        self._list_ns = int(list_seconds * NS)
        self._timeout_seconds = timeout_seconds
        self._keep_ns = int(keep_seconds * NS)
        self._asked_at_ns: int | None = None
        self._told_at_ns = 0
        self._problem: str | None = None

    @property
    def feature(self) -> Feature:
        """Whether pods are known, and what opens that."""
        missing = self._missing()
        problem = missing or self._problem
        without = "engines have no pods, and engines whose processes are not shown to us are not found"
        return Feature(
            name="kubernetes_pods",
            enabled=not problem,
            reason=f"{without}: {problem}" if problem else "",
            expected=self._settings.enabled is True or bool(self._environ.get("KUBERNETES_SERVICE_HOST")),
        )

    @property
    def stale(self) -> bool:
        """Whether the last answer is so old that an address in it may be another pod's by now."""
        return bool(self._problem) and boot_ns() - self._told_at_ns > self._keep_ns

    async def step(self, *, somebody_new: bool = False) -> None:
        """Ask if it is time. Raises nothing for what the API server does."""
        if self._missing():
            return
        now = boot_ns()
        gap_ns = min(self._list_ns, _NEWS_NS) if somebody_new else self._list_ns
        if self._asked_at_ns is not None and now - self._asked_at_ns < gap_ns:
            return
        self._asked_at_ns = now
        try:
            self.pods = await self._list()
            self._told_at_ns, problem = now, ""
        except TryLater as failure:
            problem = failure.reason
        if problem != self._problem:
            write = log.warning if problem else log.info
            write("kubernetes_pods", reason=problem or "the API server tells the pods of this node")
        self._problem = problem

    def _missing(self) -> str:
        """Why nobody is asked; '' if somebody is."""
        if self._settings.enabled is False:
            return "engines.kubernetes.enabled is false"
        if not self._environ.get("KUBERNETES_SERVICE_HOST"):
            return "this is not a pod (KUBERNETES_SERVICE_HOST is not set). Outside of Kubernetes nothing is missing"
        if not (self._account / "token").exists():
            return (
                f"there is no token in {self._account}: set automountServiceAccountToken: true for the agent's pod, "
                f"and give its ServiceAccount {_RULE}"
            )
        if not self._node():
            return (
                "the name of this node is not known: set the environment variable NODE_NAME from the field "
                "spec.nodeName in the agent's pod, or engines.kubernetes.node_name"
            )
        return ""

    def _node(self) -> str:
        return self._settings.node_name or self._environ.get("NODE_NAME", "")

    async def _list(self) -> tuple[Pod, ...]:
        token, context = await anyio.to_thread.run_sync(self._credentials)
        timeout = aiohttp.ClientTimeout(total=self._timeout_seconds)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context),
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=timeout,
            trust_env=False,
        ) as session:
            try:
                return await self._pages(session)
            except _TooOld:
                pass
            try:
                return await self._pages(session)
            except _TooOld:
                raise TryLater("the API server's list of pods changes faster than it can be read") from None

    async def _pages(self, session: aiohttp.ClientSession) -> tuple[Pod, ...]:
        found: list[Pod] = []
        next_page = ""
        while True:
            body = await self._get(session, next_page)
            try:
                pods, next_page = decode_page(body)
            except msgspec.DecodeError as error:
                raise TryLater(f"the API server's list of pods is not what Kubernetes answers: {error}") from None
            found += pods
            if not next_page:
                return tuple(found)

    async def _get(self, session: aiohttp.ClientSession, next_page: str) -> bytes:
        url = self._url(next_page)
        try:
            async with session.get(url, allow_redirects=False) as response:
                body = await response.content.read(MAX_PAGE_BYTES + 1)
                while len(body) <= MAX_PAGE_BYTES and (part := await response.content.read(MAX_PAGE_BYTES)):
                    body += part
                status = response.status
        except TimeoutError:
            raise TryLater(f"the API server did not answer within {self._timeout_seconds:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            raise TryLater(f"the API server's certificate is not one of this cluster: {error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise TryLater(f"no answer from the API server: {str(error) or type(error).__name__}") from None
        if status == _GONE and next_page:
            raise _TooOld
        if status != 200:
            raise TryLater(_refusal(status, body))
        if len(body) > MAX_PAGE_BYTES:
            raise TryLater(f"the API server's list of pods is larger than {MAX_PAGE_BYTES // 2**20} MiB")
        return body

    def _url(self, next_page: str) -> str:
        host = self._environ["KUBERNETES_SERVICE_HOST"]
        port = self._environ.get("KUBERNETES_SERVICE_PORT", "443")
        selector = quote(f"spec.nodeName={self._node()}", safe="")
        # A version is not allowed beside the token of a next page, which has its own.
        rest = f"continue={quote(next_page, safe='')}" if next_page else "resourceVersion=0"
        where = f"[{host}]" if ":" in host else host
        return f"https://{where}:{port}/api/v1/pods?fieldSelector={selector}&limit={PAGE_PODS}&{rest}"

    def _credentials(self) -> tuple[str, ssl.SSLContext]:
        try:
            token = (self._account / "token").read_text().strip()
            context = ssl.create_default_context(cafile=str(self._account / "ca.crt"))
        except (OSError, ValueError) as error:
            raise TryLater(f"token or ca.crt in {self._account} cannot be used: {error}") from None
        if not token.isascii() or not token.isprintable() or not token:
            raise TryLater(f"the token in {self._account} is empty or damaged")
        return token, context


class _TooOld(Exception):
    """The list changed too much while it was read page by page."""


class _Refusal(msgspec.Struct):
    message: str = ""


def _refusal(status: int, body: bytes) -> str:
    try:
        said = msgspec.json.decode(body, type=_Refusal).message[:300]
    except msgspec.DecodeError:
        said = ""
    told = f" ({said})" if said else ""
    if status == 401:
        return f"the API server does not accept the agent's token{told}: is it from this cluster, and still valid?"
    if status == 403:
        return f"the agent's ServiceAccount may not list pods{told}: give it {_RULE}"
    return f"the API server answered with status {status}{told}"
