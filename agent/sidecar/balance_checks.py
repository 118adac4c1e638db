"""Engines are asked whether they are ready → `Balance.checked`. One pulse for all of them."""

import aiohttp
import anyio

from agent.sidecar.balance import Balance, Engine

NO_SUCH_PATH = (404, 405, 501)


def checks_wanted(balance: Balance) -> bool:
    """Whether engines are asked, the default applied."""
    wanted = balance.settings.check
    return len(balance.engines) > 1 if wanted is None else wanted


class Checks:
    """`step` asks every engine once, at the same time. `session` must speak the engines' TLS."""

    def __init__(self, balance: Balance, urls: dict[Engine, str], session: aiohttp.ClientSession) -> None:
        self._balance = balance
        self._urls = urls
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=balance.settings.check_timeout_seconds)

    async def step(self) -> None:
        """One round; to be run every `check_interval_seconds`."""
        async with anyio.create_task_group() as group:
            for engine, url in self._urls.items():
                group.start_soon(self._ask, engine, url)

    async def _ask(self, engine: Engine, url: str) -> None:
        try:
            async with self._session.get(
                url + self._balance.settings.check_path, timeout=self._timeout, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            self._balance.checked(engine, False, f"{type(error).__name__}: {error}".rstrip(": "))
            return
        if status in NO_SUCH_PATH:
            self._balance.checked(engine, None)
        else:
            told = f"{self._balance.settings.check_path} answers {status}"
            self._balance.checked(engine, 200 <= status < 300, told)
