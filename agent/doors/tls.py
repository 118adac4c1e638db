"""Certificates, keys and authorities from files in, contexts of the standard library out that follow those files.

Each connection is made with the files as they are when it begins; what is open already lives on.
"""

import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from agent import clock
from agent.clock import NS
from agent.core.ports import ConfigError
from agent.doors.settings import ClientTlsSettings, TlsSettings
from agent.doors.watched import Watched

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption only. Those of TLS 1.3 all have both."""


class _Made(Struct, frozen=True):
    """One state of the files."""

    context: ssl.SSLContext
    expires_at_ns: int | None


class _Following(ssl.SSLContext):
    """A context that makes every connection with the newest one.

    asyncio, uvloop and http.client take a context once and call `wrap_bio` or `wrap_socket` of it for each connection,
    so this reaches all of them, whether or not a client says which name it wants; and nothing of an older context,
    its authorities and sessions among it, is there for the new connection.
    """

    newest: Callable[[], ssl.SSLContext]

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return self.newest().wrap_bio(*args, **kwargs)

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        return self.newest().wrap_socket(*args, **kwargs)


Context = TypeVar("Context", bound=ssl.SSLContext)


class ServerTls:
    """TLS of one listener. `key` is the dotted path of its settings, such as ``api.tls``.

    `context` follows the files, looked at when a connection begins, at most once a second. Files that cannot be used
    leave the last good ones in force, and `error` says why. Raises `ConfigError` if they cannot be used at the start.
    """

    def __init__(self, settings: TlsSettings, *, key: str, boot_ns: Callable[[], int] = clock.boot_ns) -> None:
        if settings.certificate_file is None or settings.key_file is None:
            raise ConfigError(f"{key}.certificate_file", "TLS needs certificate_file and key_file")
        files = {f"{key}.certificate_file": settings.certificate_file, f"{key}.key_file": settings.key_file}
        if settings.client_ca_file is not None:
            files[f"{key}.client_ca_file"] = settings.client_ca_file
        must_show = settings.require_client_certificate

        def make(certificate: bytes, private_key: bytes, client_ca: bytes | None = None) -> _Made:
            context = _server_context(ssl.SSLContext)
            expires_at_ns = _load_own(context, certificate, private_key, key)
            if client_ca is not None:
                _load_authorities(context, client_ca, f"{key}.client_ca_file")
                context.verify_mode = ssl.CERT_REQUIRED if must_show else ssl.CERT_OPTIONAL
            return _Made(context, expires_at_ns)

        self._files = Watched(files, make, boot_ns=boot_ns)
        following = _server_context(_Following)
        following.newest = lambda: self._files.current().context
        following.verify_mode = self._files.current().context.verify_mode
        self.context: ssl.SSLContext = following

    @property
    def error(self) -> str:
        """Why the files as they are now are not used; empty while they are."""
        return self._files.error

    @property
    def expires_at_ns(self) -> int:
        """When the first certificate of the chain that is shown to clients expires."""
        return self._files.current().expires_at_ns or 0


class ClientTls:
    """TLS of connections that we open; otherwise as `ServerTls`. Servers' names and certificates are always checked."""

    def __init__(self, settings: ClientTlsSettings, *, key: str, boot_ns: Callable[[], int] = clock.boot_ns) -> None:
        named = {
            "ca_file": settings.ca_file,
            "certificate_file": settings.certificate_file,
            "key_file": settings.key_file,
        }
        files: dict[str, Path] = {name: file for name, file in named.items() if file is not None}

        def make(*contents: bytes) -> _Made:
            given = dict(zip(files, contents, strict=True))
            context = _client_context(ssl.SSLContext)
            expires_at_ns = None
            if "ca_file" in given:
                _load_authorities(context, given["ca_file"], f"{key}.ca_file")
            else:
                context.load_default_certs()
            if "certificate_file" in given:
                expires_at_ns = _load_own(context, given["certificate_file"], given["key_file"], key)
            return _Made(context, expires_at_ns)

        self._files = Watched({f"{key}.{name}": file for name, file in files.items()}, make, boot_ns=boot_ns)
        following = _client_context(_Following)
        following.newest = lambda: self._files.current().context
        self.context: ssl.SSLContext = following

    @property
    def error(self) -> str:
        """Why the files as they are now are not used; empty while they are."""
        return self._files.error

    @property
    def expires_at_ns(self) -> int | None:
        """When our own certificate expires; None without one."""
        return self._files.current().expires_at_ns


def certificate_names(peer_certificate: Mapping[str, Any] | None, *, now_unix_ns: int | None = None) -> tuple[str, ...]:
    """Names in a client's certificate, as `getpeercert()` gives it: its DNS names and URIs, else its common name.

    Empty without a certificate, and for one that has expired since the connection began.
    """
    if not peer_certificate:
        return ()
    now = clock.unix_ns() if now_unix_ns is None else now_unix_ns
    if ssl.cert_time_to_seconds(str(peer_certificate["notAfter"])) * NS < now:
        return ()
    alternative = tuple(
        str(name) for kind, name in peer_certificate.get("subjectAltName", ()) if kind in ("DNS", "URI")
    )
    if alternative:
        return alternative
    return tuple(
        str(value)
        for part in peer_certificate.get("subject", ())
        for field, value in part
        if field == "commonName" and value
    )


def _server_context(kind: type[Context]) -> Context:
    context = kind(ssl.PROTOCOL_TLS_SERVER)
    _common(context)
    # No tickets: they would carry a client's identity past the end of its certificate. What TLS 1.2 resumes without
    # them ends with this context, so no session outlives a change of the authorities; and `certificate_names` looks at
    # the certificate's end once more.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    return context


def _client_context(kind: type[Context]) -> Context:
    context = kind(ssl.PROTOCOL_TLS_CLIENT)  # checks certificates and host names
    _common(context)
    return context


def _common(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)


def _load_authorities(context: ssl.SSLContext, content: bytes, key: str) -> None:
    certificates = _certificates(content, key)
    try:
        context.load_verify_locations(cadata=b"".join(der for der, _ in certificates))
    except ssl.SSLError as error:
        raise ConfigError(key, f"the file's certificates cannot be used: {error.reason or error}") from None


def _load_own(context: ssl.SSLContext, certificate: bytes, private_key: bytes, key: str) -> int:
    """Load a certificate chain and its key; when the first of the chain expires, Unix nanoseconds."""
    chain = _certificates(certificate, f"{key}.certificate_file")
    place = f"{key}.key_file"

    def no_password() -> str:
        raise ConfigError(place, "the key is encrypted; give one without a password")

    # The standard library loads a key by a file's name only. Files in memory keep what is loaded the same as what was
    # read: the paths may have been swapped between.
    with _in_memory(certificate) as certificate_name, _in_memory(private_key) as key_name:
        try:
            context.load_cert_chain(certificate_name, key_name, no_password)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                raise ConfigError(
                    place, "the key is not that of certificate_file; give two that belong together"
                ) from None
            raise ConfigError(place, "the file must hold the certificate's private key in PEM") from None
    return min(expires_at_ns for _, expires_at_ns in chain)


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path under which this process can read `content`, which never reaches a disk."""
    number = os.memfd_create("tls", os.MFD_CLOEXEC)
    with os.fdopen(number, "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{number}"


def _certificates(content: bytes, key: str) -> list[tuple[bytes, int]]:
    """Each certificate of a PEM file: its DER, and when it expires in Unix nanoseconds. At least one."""
    from cryptography import x509  # loaded only where TLS is on
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        found = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise ConfigError(key, "the file must hold at least one certificate in PEM, and only whole ones") from None
    epoch = datetime.fromtimestamp(0, UTC)
    return [
        (each.public_bytes(Encoding.DER), int((each.not_valid_after_utc - epoch).total_seconds()) * NS)
        for each in found
    ]
