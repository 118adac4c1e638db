"""A listener's files as samples."""

from pathlib import Path

from agent.core.catalogue import BY_NAME
from agent.doors.numbers import door_samples
from agent.doors.settings import TlsSettings
from agent.doors.tls import ServerTls
from tests.support.credentials import make_ca

NS = 1_000_000_000


def test_plain_http_has_no_certificate_that_could_expire() -> None:
    ((key, value),) = door_samples("n", "api", ("api.auth.tokens.0.file: gone",), None)
    assert (key.name, key.labels, value) == (
        "engineroom_listener_unusable_files",
        (("listener", "api"), ("node", "n")),
        1,
    )


def test_a_certificate_tells_when_it_expires_and_whether_its_files_are_well(tmp_path: Path) -> None:
    certificate, key = make_ca().issue().write(tmp_path)
    now = 0
    tls = ServerTls(TlsSettings(certificate_file=certificate, key_file=key), key="api.tls", boot_ns=lambda: now)
    found = {sample.key.name: sample.value for sample in door_samples("n", "api", (), tls)}
    assert set(found) <= set(BY_NAME)
    assert found["engineroom_listener_certificate_expiry_timestamp_seconds"] == tls.expires_at_ns / NS
    assert found["engineroom_listener_unusable_files"] == 0
    key.write_text("no key")
    now = 2 * NS
    found = {sample.key.name: sample.value for sample in door_samples("n", "api", (), tls)}
    assert found["engineroom_listener_unusable_files"] == 1
