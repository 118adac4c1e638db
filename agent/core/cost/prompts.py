"""Prompts of finished requests in; what is to be expected of one whose usage is not known yet, out.

While a request runs, only the length of its body is known, and a tick is closed before it ends. Whether its prefix was
cached, and how many bytes a token has in its tenant's language, is known of those that the same tenant sent before.
"""

from agent.core.cost.live import Live

MOST_TENANTS = 2000  # later ones are expected to be like everybody
_FADE = 0.98  # of what was learnt, with each request: the last fifty or so count
_FEW = 3.0  # requests of everybody's that a tenant's own are weighed against


class Prompts:
    """Learns from the requests of one model on one engine."""

    __slots__ = ("_everybody", "_tenants")

    def __init__(self) -> None:
        self._everybody = _Ratios()
        self._tenants: dict[str, _Ratios] = {}

    def learn(self, live: Live) -> None:
        """A request ended. It teaches nothing unless both its estimate and its usage are known."""
        estimate, fresh = live.input_estimate, live.usage.input_tokens
        if not estimate or fresh is None:
            return
        tenant = self._tenants.get(live.tenant)
        if tenant is None and len(self._tenants) < MOST_TENANTS:
            tenant = self._tenants[live.tenant] = _Ratios()
        prompt = fresh + (live.usage.input_cached_tokens or 0)
        for ratios in (self._everybody, tenant):
            if ratios is not None:
                ratios.add(fresh / estimate, prompt / estimate)

    def expect(self, live: Live) -> tuple[int, int]:
        """(tokens to be read, tokens of context with the cached ones); the estimate itself where nothing was learnt."""
        estimate = live.input_estimate or 0
        everybody, own = self._everybody, self._tenants.get(live.tenant)
        if not estimate or not everybody.count:
            return estimate, estimate
        if own is None:
            return round(estimate * everybody.fresh), round(estimate * everybody.prompt)
        part = own.count / (own.count + _FEW)
        fresh = part * own.fresh + (1 - part) * everybody.fresh
        return round(estimate * fresh), round(estimate * (part * own.prompt + (1 - part) * everybody.prompt))


class _Ratios:
    """Means over the last requests, of what was there to what was estimated."""

    __slots__ = ("count", "fresh", "prompt")

    def __init__(self) -> None:
        self.count = 0.0
        self.fresh = self.prompt = 1.0

    def add(self, fresh: float, prompt: float) -> None:
        self.count = self.count * _FADE + 1
        self.fresh += (fresh - self.fresh) / self.count
        self.prompt += (prompt - self.prompt) / self.count
