"""Real processes that look like engines: a command line, a name or a title, and a socket that counts who comes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# Listens where the first line of its input says, names itself as the second says, answers every request with 404, and
# each further line of its input with the heads of all requests so far (one that sends none counts as an empty one).
# It ends at the end of its input, also when the test is killed.
_SCRIPT = """
import json, pathlib, socket, sys, threading
addresses = sys.stdin.readline().split()
name = sys.stdin.readline().strip()
if name:
    pathlib.Path("/proc/self/comm").write_text(name)
servers = []
for address in addresses:
    host, _, port = address.partition(",")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    servers.append(socket.create_server((host, int(port or 0)), family=family))
print(*(server.getsockname()[1] for server in servers), flush=True)
heads = []
def serve(server):
    while True:
        visitor, _ = server.accept()
        at = len(heads)
        heads.append("")
        with visitor:
            while not heads[at].endswith("\\r\\n\\r\\n") and (part := visitor.recv(65536)):
                heads[at] += part.decode(errors="replace")
            visitor.sendall(b"HTTP/1.1 404 Not Found\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
for server in servers:
    threading.Thread(target=serve, args=(server,), daemon=True).start()
for line in sys.stdin:
    print(json.dumps(heads), flush=True)
"""


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """A running process; `ports` in the order of the addresses given."""

    process: subprocess.Popen[str]
    ports: tuple[int, ...]

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return self.ports[0]

    def heads(self) -> list[str]:
        """The heads of the requests so far; '' for a connection that sent none."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        found: list[str] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def engine_process(
    folder: Path,
    *words: str,
    program: str = "vllm",
    name: str = "",
    listen: Sequence[str] = ("127.0.0.1",),
    before: Sequence[str] = (),
) -> Iterator[EngineProcess]:
    """`python FOLDER/PROGRAM WORDS...`, listening when this yields, gone when the body ends.

    `listen`: addresses, or `ADDRESS,PORT`. `name`: what /proc/PID/comm says. `before`: a command that execs it, such as
    `unshare --net`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / program
    script.write_text(_SCRIPT)
    command = [*before, sys.executable, "-S", str(script), *words]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        print(*listen, file=child.stdin)
        print(name, file=child.stdin, flush=True)
        ports = tuple(int(word) for word in child.stdout.readline().split())
        assert len(ports) == len(listen), "the process did not start"
        yield EngineProcess(child, ports)
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


def other_network(address: str) -> list[str]:
    """A command prefix for a network namespace of its own in which `address` is local; skips where that is refused."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare (util-linux) and ip (iproute2) make the other network namespace")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make network namespaces (CAP_SYS_ADMIN)")
    setup = f'ip link set lo up && ip addr add {address} dev lo && exec "$@"'
    return ["unshare", "--net", "sh", "-c", setup, "sh"]
