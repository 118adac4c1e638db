"""A context that follows its files → the same, offering the protocols of our choice (ALPN, RFC 7301)."""

import ssl
from typing import Any


class _Offering(ssl.SSLContext):
    """Every connection is made by `inner`, with the context it uses at that moment."""

    inner: ssl.SSLContext
    protocols: tuple[str, ...]
    done: ssl.SSLContext | None

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        made = self.inner.wrap_bio(*args, **kwargs)
        while made.context is not self.done:
            # A connection takes its context's protocols along when it is made: tell the context, and make it again.
            self.done = made.context
            self.done.set_alpn_protocols(list(self.protocols))
            made = self.inner.wrap_bio(*args, **kwargs)
        return made


def offering(inner: ssl.SSLContext, protocols: tuple[str, ...]) -> ssl.SSLContext:
    """`inner`, such as the context of `ServerTls` or `ClientTls`, with these protocols, the best first.

    The contexts behind `inner` must not be shared with somebody who offers others.
    """
    made = _Offering(ssl.PROTOCOL_TLS_SERVER if _is_server(inner) else ssl.PROTOCOL_TLS_CLIENT)
    made.inner, made.protocols, made.done = inner, protocols, None
    return made


def _is_server(context: ssl.SSLContext) -> bool:
    return context.protocol == ssl.PROTOCOL_TLS_SERVER
