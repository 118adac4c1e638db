"""One reader process, seen from its supervisor: started, ticked, listened to, ended or abandoned."""

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

import anyio
import msgspec
from anyio.abc import SocketStream

from agent.collect.gpu.frames import Answer, FrameBuffer, Tick, decode_answer, encode


class ReaderEnded(Exception):
    """The reader has closed its end, or said something that cannot be understood."""


class Child:
    """A running reader. Made by `Child.start`."""

    def __init__(self, process: subprocess.Popen[bytes], stream: SocketStream) -> None:
        self.pid = process.pid
        self._process = process
        self._stream = stream
        self._frames = FrameBuffer()
        self._arrived: list[bytes] = []

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> "Child":
        """Raises OSError when the program cannot be started."""
        ours, theirs = socket.socketpair()
        with theirs:
            # No await between the birth of the process and its owner: a cancellation must not orphan it.
            stream = await SocketStream.from_socket(ours)
            try:
                return cls(_spawn([*command, "--fd", str(theirs.fileno())], environment, theirs.fileno()), stream)
            except OSError:
                await stream.aclose()
                raise

    async def send(self, tick: Tick) -> None:
        """Raises `ReaderEnded`."""
        try:
            await self._stream.send(encode(tick))
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise ReaderEnded("the reader has closed its end") from error

    async def answer(self) -> Answer:
        """The next message. Raises `ReaderEnded`."""
        while not self._arrived:
            try:
                self._arrived = self._frames.feed(await self._stream.receive(65536))
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                raise ReaderEnded("the reader has closed its end") from error
            except ValueError as error:
                raise ReaderEnded(str(error)) from error
        try:
            return decode_answer(self._arrived.pop(0))
        except msgspec.DecodeError as error:
            raise ReaderEnded(f"the reader sent what is no message: {error}") from error

    def status(self) -> int | None:
        """Exit status, negative for a signal; None while the process lives."""
        return self._process.poll()

    async def abandon(self) -> None:
        """Kill it and do not wait: it may be stuck in the kernel for ever."""
        if self.status() is None:
            self._process.kill()
        await self._stream.aclose()

    async def end(self, patience_seconds: float) -> None:
        """Close the socket, which ends a healthy reader; after `patience_seconds` kill it. Returns soon in any case."""
        await self._stream.aclose()
        if not await self.reaped(patience_seconds):
            self._process.kill()
            await self.reaped(0.5)

    async def reaped(self, seconds: float) -> bool:
        """Whether it has ended, waiting at most `seconds` for that."""
        if self.status() is not None:
            return True
        handle = os.pidfd_open(self.pid)
        try:
            with anyio.move_on_after(seconds):
                await anyio.wait_readable(handle)
        finally:
            os.close(handle)
        return self.status() is not None


def _spawn(command: Sequence[str], environment: Mapping[str, str], fd: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env={**os.environ, **environment}, pass_fds=(fd,), stdin=subprocess.DEVNULL, close_fds=True
    )
