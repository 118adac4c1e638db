"""Protocols on top of a context that changes; whole handshakes are in test_listening and test_dialling."""

import ssl

from agent.sidecar.sockets.alpn import offering


class Turning(ssl.SSLContext):
    """Makes each connection with the next of two contexts."""

    def wrap_bio(self, *args, **kwargs):
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if self.fresh else self.last
        made.check_hostname = False
        self.last, self.fresh = made, False
        return made.wrap_bio(*args, **kwargs)


def test_a_new_context_is_told_once_and_before_its_first_connection() -> None:
    inner = Turning(ssl.PROTOCOL_TLS_CLIENT)
    inner.fresh = True
    context = offering(inner, ("h2",))
    seen = []
    for fresh in (True, False, True):
        inner.fresh = fresh
        outgoing = ssl.MemoryBIO()
        made = context.wrap_bio(ssl.MemoryBIO(), outgoing)
        try:
            made.do_handshake()
        except ssl.SSLWantReadError:
            seen.append((made.context, b"\x02h2" in outgoing.read()))  # the first message lists the protocols
    assert [told for _, told in seen] == [True, True, True]
    assert seen[0][0] is seen[1][0] is not seen[2][0]
    assert context.protocol == ssl.PROTOCOL_TLS_CLIENT
    assert offering(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ()).protocol == ssl.PROTOCOL_TLS_SERVER
