"""Dead letters for the command line: read beside their owner, changed through it, or here when nobody has them open."""

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import aiohttp
import anyio
import msgspec

from agent.core.ports import ConfigError
from agent.delivery.deadletters import DeadLetter, read_letter, replay
from agent.doors.settings import ClientTlsSettings
from agent.doors.tls import ClientTls
from agent.doors.tokens import parse_token
from agent.settings import split_address
from agent.sidecar.records.shipping import DEAD_LETTERS
from agent.sidecar.settings import SidecarSettings
from agent.spool.inspect import LOCK_NAME, items, streams_in
from agent.spool.settings import SpoolSettings, StreamLimits
from agent.spool.spool import open_spool
from agent.spool.stream import Stream

PATH = "/admin/v1/dlq/"
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 300.0
ROOM_SECONDS = 15.0  # for one group of items to become durable
GROUP_LETTERS = 500
NUMBERS_IN_ONE_REQUEST = 10_000
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}


class Failed(Exception):
    """What was asked for was not done, or only a part of it; the text says what to do."""


class Found(NamedTuple):
    """One dead letter by its number in the stream of letters."""

    number: int
    at_ns: int  # wall clock; when it was written
    letter: DeadLetter | None  # None: it cannot be read
    problem: str
    data: bytes


def find(folder: Path) -> Iterator[Found]:
    """The letters of a spool that are not settled, oldest first. Raises `NewerFormat` and `OSError`."""
    if not (folder / DEAD_LETTERS).is_dir():
        return
    for stored in items(folder / DEAD_LETTERS):
        try:
            yield Found(stored.sequence, stored.at_ns, read_letter(stored.data), "", stored.data)
        except ValueError as error:
            yield Found(stored.sequence, stored.at_ns, None, str(error), stored.data)


def is_open(folder: Path) -> bool:
    """Whether a process has the spool open, one of another container too. Tries the lock and lets it go again."""
    try:
        lock = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


# Here


async def change_here(
    folder: Path, settings: SpoolSettings, numbers: Collection[int] | None, *, discard: bool
) -> tuple[int, int]:
    """Replay or discard letters (None: all) of a spool that nobody has open: (done, left because unreadable).

    Raises `Failed`, and `ConfigError` when the spool cannot be opened.
    """
    names = streams_in(folder)
    limits = {name: StreamLimits(weight=0.25 if name == DEAD_LETTERS else 1.0, group_seconds=0.0) for name in names}
    done = left = 0
    failed: Failed | None = None
    async with open_spool(folder, settings, limits, key="sidecar.spool") as spool:
        chosen = (one for one in find(folder) if numbers is None or one.number in numbers)
        while failed is None and (group := list(islice(chosen, GROUP_LETTERS))):
            if discard:
                spool.streams[DEAD_LETTERS].settle([one.number for one in group], "dropped:discarded")
                done += len(group)
                continue
            readable = [one for one in group if one.letter is not None]
            left += len(group) - len(readable)
            try:
                done += await _replay(readable, spool.streams)
            except Failed as error:
                failed = error  # raised in here it would come out as a group of errors
    if failed is not None:
        raise failed
    return done, left


async def _replay(group: Sequence[Found], streams: Mapping[str, Stream]) -> int:
    by_stream: dict[str, list[Found]] = {}
    for one in group:
        assert one.letter is not None
        by_stream.setdefault(one.letter.stream, []).append(one)
    done = 0
    for name, found in by_stream.items():
        if name == DEAD_LETTERS or name not in streams:
            raise Failed(
                f"dead letter {found[0].number} is of stream {name!r}, which this spool does not have; "
                f"{done} were replayed before it"
            )
        numbers, letters = [one.number for one in found], [one.letter for one in found if one.letter is not None]
        with anyio.move_on_after(ROOM_SECONDS) as scope:
            done += await replay(numbers, letters, streams[DEAD_LETTERS], streams[name])
        if scope.cancelled_caught:
            blocked = streams[name].state().blocked or "the disk is too slow"
            raise Failed(f"stream {name} takes nothing: {blocked}; make room, then replay again. No letter is lost")
    return done


# Through the owner


class Access(NamedTuple):
    """How to reach the process that has the spool open."""

    url: str
    token: str | None = None
    tls: ClientTlsSettings = ClientTlsSettings()


def access(settings: SidecarSettings, url: str | None, token_file: Path | None, tls: ClientTlsSettings) -> Access:
    """What the command line says, else what the sidecar's own settings lead to. Raises `ConfigError`."""
    if url is None:
        host, port = split_address(settings.admin_listen)
        host = WILDCARDS.get(host, f"[{host}]" if ":" in host else host)
        url = f"{'https' if settings.admin_tls.enabled else 'http'}://{host}:{port}"
    elif not url.startswith(("http://", "https://")):
        raise ConfigError("--url", f"expected http://host:port or https://host:port, got {url!r}")
    if token_file is not None:
        return Access(url, _token(token_file, "--token-file"), tls)
    for one in settings.admin_auth.tokens:
        if "admin" in one.scopes and os.access(one.file, os.R_OK):
            return Access(url, _token(one.file, "sidecar.admin_auth.tokens"), tls)
    return Access(url, None, tls)


def _token(file: Path, key: str) -> str:
    try:
        return parse_token(file.read_bytes(), key).decode()
    except OSError as error:
        raise ConfigError(key, f"{file} cannot be read: {error.strerror}") from error


class _Answer(msgspec.Struct):
    replayed: int = 0
    discarded: int = 0
    folders: dict[str, int | str] = {}


async def change_there(to: Access, numbers: Collection[int] | None, *, discard: bool, folder: str | None = None) -> int:
    """Ask the owner to replay or discard letters (None: all); how many it did.

    `folder`: only those of this one of the spools that it has open, by its name; without it, all letters are those of
    every spool. Raises `Failed`, and `ConfigError` when it refuses us.
    """
    what = "discard" if discard else "replay"
    where = {} if folder is None else {"folder": folder}
    if numbers is None:
        return await _ask(to, what, {"all": True, **where})
    done, wanted = 0, sorted(numbers)
    for at in range(0, len(wanted), NUMBERS_IN_ONE_REQUEST):
        done += await _ask(to, what, {"numbers": wanted[at : at + NUMBERS_IN_ONE_REQUEST], **where})
    return done


async def _ask(to: Access, what: str, body: object) -> int:
    url = to.url.rstrip("/") + PATH + what
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {to.token}"} if to.token else {})
    context = ClientTls(to.tls, key="--ca-file").context if url.startswith("https") else True
    timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS, connect=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(trust_env=False, timeout=timeout) as session,
            session.post(
                url, data=msgspec.json.encode(body), headers=headers, ssl=context, allow_redirects=False
            ) as answer,
        ):
            content = await answer.content.read(1 << 20)
            status = answer.status
    except aiohttp.InvalidURL as error:
        raise ConfigError("--url", f"{to.url!r} is no URL") from error
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError) as error:
        raise Failed(
            f"{url}: TLS failed: {error}. Give --ca-file with the authority of its certificate, and --url with a name "
            "that is in it"
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise Failed(
            f"{url}: no connection: {error.os_error.strerror or error}. Is that the process that has the spool open? "
            "Give --config of that sidecar, or --url of its admin address; or stop it and do this again"
        ) from error
    except TimeoutError as error:
        raise Failed(f"{url}: no answer in time; look with `engineroom dlq list` what was done") from error
    except aiohttp.ClientError as error:
        raise Failed(
            f"{url}: no answer in HTTP ({type(error).__name__}); if that address speaks TLS, give --url https://..."
        ) from error
    return _understand(url, status, content, what, with_token=to.token is not None)


def _understand(url: str, status: int, content: bytes, what: str, *, with_token: bool) -> int:
    if status == 200:
        try:
            answer = msgspec.json.decode(content, type=_Answer)
        except msgspec.DecodeError as error:
            raise Failed(f"{url}: its answer cannot be understood: {error}") from error
        done = answer.replayed if what == "replay" else answer.discarded
        if failed := [f"{name}: {reason}" for name, reason in answer.folders.items() if isinstance(reason, str)]:
            raise Failed(f"{url}: not done in every folder: {'; '.join(failed)}. {done:,} were done in the others")
        return done
    told = _detail(content)
    if status == 401:
        tried = "it does not know this token" if with_token else "it wants a token"
        raise ConfigError(
            "--token-file", f"{url}: {tried}; give a file with a token that has the scope `admin`. {told}"
        )
    if status == 403:
        raise ConfigError("--token-file", f"{url}: this needs a token with the scope `admin`. {told}")
    if status == 404:
        raise Failed(f"{url}: there is no such path. Is that the admin address of the sidecar? {told}")
    raise Failed(f"{url}: status {status}. {told}")


def _detail(content: bytes) -> str:
    try:
        told = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return ""
    detail = told.get("detail") if isinstance(told, dict) else None
    return f"It says: {detail}" if isinstance(detail, str) and detail else ""
