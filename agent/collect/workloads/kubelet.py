"""Kubelet's pod-resources socket in, its answers out, or why there are none. Blocks; for a worker thread.

gRPC over HTTP/2 by the h2 library, which the sidecar has as well: two calls with one small message each need no more,
and grpcio takes 21 MiB in the agent's process where this takes 2.
"""

import socket
import threading
from pathlib import Path
from typing import Any

from msgspec import Struct

from agent.clock import NS, boot_ns
from agent.core.attribution.podresources import ContainerDevices, Devices, decode_allocatable, decode_list

SERVICE = "/v1.PodResourcesLister/"
MAX_ANSWER_BYTES = 64 * 2**20
_CONNECT_SECONDS = 2.0
_CHUNK_BYTES = 65536
_PREFIX_BYTES = 5  # of each message: whether it is compressed, and its length
_OK, _RESOURCE_EXHAUSTED, _PERMISSION_DENIED, _UNIMPLEMENTED = "0", "8", "7", "12"


class KubeletAway(Exception):
    """No answer. The text is one of few, so that it can be a label; `detail` is what was heard."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.detail = detail


class KubeletAnswer(Struct, frozen=True, kw_only=True):
    """Who has been given what. `allocatable` is None where this kubelet does not tell (before 1.23)."""

    given: tuple[ContainerDevices, ...]
    allocatable: tuple[Devices, ...] | None


class Kubelet:
    """Asks one kubelet. `stop` may be called from another thread: the question under way then ends at once."""

    def __init__(self, sockets: tuple[Path, ...], timeout_seconds: float) -> None:
        self._sockets = sockets
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._stopped = False

    def ask(self) -> KubeletAnswer:
        """Both questions, on a connection of their own: a restarted kubelet has a new socket. Raises KubeletAway."""
        connection = self._connected()
        try:
            with self._lock:
                self._socket = connection
                if self._stopped:
                    raise KubeletAway("the agent is stopping")
            calls = _Calls(connection, self._timeout)
            given = calls.call("List")
            try:
                allocatable = calls.call("GetAllocatableResources")
            except _NotOfferedError:
                allocatable = None
            return KubeletAnswer(
                given=decode_list(given), allocatable=None if allocatable is None else decode_allocatable(allocatable)
            )
        except _NotOfferedError as error:
            raise KubeletAway("what answers at its socket has no service v1.PodResourcesLister") from error
        except ValueError as error:
            raise KubeletAway("its answer could not be read", str(error)) from error
        except TimeoutError as error:
            raise KubeletAway("it did not answer in time") from error
        except OSError as error:
            reason = "the agent is stopping" if self._stopped else "the connection to it broke"
            raise KubeletAway(reason, str(error)) from error
        finally:
            with self._lock:
                self._socket = None
            connection.close()

    def stop(self) -> None:
        """No further questions; end the one under way."""
        with self._lock:
            self._stopped = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # the other side was faster

    def _connected(self) -> socket.socket:
        """A connection to the first socket that is there."""
        refused = None
        for path in self._sockets:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(min(self._timeout, _CONNECT_SECONDS))
                connection.connect(str(path))
            except OSError as error:
                connection.close()
                refused = refused or _refusal(path, error)
            else:
                return connection
        raise refused or KubeletAway("there is no socket of it: mount its pod-resources folder, read-only")


class _NotOfferedError(Exception):
    """This kubelet does not have the method."""


def _refusal(path: Path, error: OSError) -> KubeletAway | None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return None
    if isinstance(error, PermissionError):
        return KubeletAway("its socket may not be opened: run as root", f"{path}: {error}")
    return KubeletAway("nothing listens at its socket", f"{path}: {error}")


class _Calls:
    """Unary calls with empty requests, one after the other, on one HTTP/2 connection."""

    def __init__(self, connection: socket.socket, timeout_seconds: float) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection

        self._connection = connection
        self._timeout_ns = int(timeout_seconds * NS)
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.initiate_connection()

    def call(self, method: str) -> bytes:
        """The message of the answer. Raises KubeletAway, _NotOfferedError, OSError, ValueError."""
        from h2.exceptions import H2Error

        deadline_ns = boot_ns() + self._timeout_ns
        stream = self._http.get_next_available_stream_id()
        headers = {":method": "POST", ":scheme": "http", ":path": SERVICE + method, ":authority": "localhost"}
        headers |= {"content-type": "application/grpc", "te": "trailers", "user-agent": "engineroom"}
        try:
            self._http.send_headers(stream, list(headers.items()))
            self._http.send_data(stream, bytes(_PREFIX_BYTES), end_stream=True)
            status, body = self._answer(stream, deadline_ns)
        except H2Error as error:
            raise KubeletAway("the connection to it broke", str(error)) from error
        _judge(status, method)
        size = int.from_bytes(body[1:_PREFIX_BYTES], "big")
        if len(body) != _PREFIX_BYTES + size or body[0]:
            raise ValueError("the message is compressed or not whole")
        return bytes(body[_PREFIX_BYTES:])

    def _answer(self, stream: int, deadline_ns: int) -> tuple[dict[str, str], bytearray]:
        headers: dict[str, str] = {}
        body = bytearray()
        while True:
            self._connection.settimeout(_left(deadline_ns))
            if outgoing := self._http.data_to_send():
                self._connection.sendall(outgoing)
            received = self._connection.recv(_CHUNK_BYTES)
            if not received:
                raise OSError("closed by the other side")
            for event in self._http.receive_data(received):
                if self._take(event, stream, headers, body):
                    return headers, body

    def _take(self, event: Any, stream: int, headers: dict[str, str], body: bytearray) -> bool:
        """Whether the answer has ended with this."""
        from h2 import events

        if isinstance(event, events.ConnectionTerminated):
            raise OSError("the other side says goodbye")
        if getattr(event, "stream_id", None) != stream:
            return False
        if isinstance(event, events.ResponseReceived | events.TrailersReceived):
            headers.update((str(name), str(value)) for name, value in event.headers)
        elif isinstance(event, events.DataReceived):
            body += event.data
            if len(body) > MAX_ANSWER_BYTES:
                raise ValueError("the answer is beyond 64 MiB")
            self._http.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, events.StreamReset):
            raise OSError(f"stream reset: {event.error_code}")
        return isinstance(event, events.StreamEnded)


def _left(deadline_ns: int) -> float:
    left_ns = deadline_ns - boot_ns()
    if left_ns <= 0:
        raise TimeoutError
    return left_ns / NS


def _judge(headers: dict[str, str], method: str) -> None:
    """Nothing if the call went well. An HTTP status that is none of gRPC's is no kubelet's."""
    status = headers.get("grpc-status", "")
    if status == _OK:
        return
    if status == _UNIMPLEMENTED or not status:
        raise _NotOfferedError
    reasons = {_RESOURCE_EXHAUSTED: "it limits how often it may be asked", _PERMISSION_DENIED: "it refuses us"}
    detail = f"{method}: status {status}: {headers.get('grpc-message', '')}"
    raise KubeletAway(reasons.get(status, "it answered with an error"), detail)
