"""A PostgreSQL server of a test's own: in a temporary folder, on a Unix socket, ended by its process id."""

import os
import pwd
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.components import need

_FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _program(name: str) -> str:
    found = next((str(folder / name) for folder in _FOLDERS if (folder / name).exists()), None)
    return found or need(name)


@contextmanager
def server() -> Iterator[str]:
    """Start one; the URL of its first database, without that database's name."""
    initdb, postgres = _program("initdb"), _program("postgres")
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    as_user: dict[str, object] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        entry = pwd.getpwnam("postgres")
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": str(folder)}
    common: dict[str, object] = {"cwd": folder, "env": environment, **as_user}
    data = folder / "data"
    command = [initdb, "-D", str(data), "-A", "trust", "-U", "test", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(command, check=True, capture_output=True, **common)  # type: ignore[call-overload]
    command = [postgres, "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, **common)  # type: ignore[call-overload]
    log = _Log(process)
    try:
        log.wait_until_ready()
        yield f"postgresql://test@/{{name}}?host={folder}"
    finally:
        process.terminate()
        process.wait(30)
        log.close()
        shutil.rmtree(folder)


class _Log:
    """What a server says, from a thread that reads it until it ends."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._lines: list[bytes] = []
        self._told = threading.Event()  # it is ready, or it ended
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.append(line)
            if b"ready to accept connections" in line:
                self._told.set()
        self._told.set()

    def wait_until_ready(self) -> None:
        if not self._told.wait(30) or self._process.poll() is not None:
            raise TimeoutError(b"".join(self._lines).decode())

    def close(self) -> None:
        """After the server's end."""
        self._thread.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


def new_database(url: str, name: str, encoding: str = "UTF8") -> str:
    """The URL of a new database on that server."""
    import psycopg

    with psycopg.connect(url.format(name="postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0".encode())
    return url.format(name=name)
