"""The examples of docs/sidecar.md are what the programs they are for understand."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import load
from agent.settings import split_address
from agent.sidecar.settings import SidecarSettings
from tests.support.components import need

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/examples/kubernetes-sidecar.yaml"
UNIT = ROOT / "deploy/examples/engineroom-sidecar@.service"
PAGE = ROOT / "docs/sidecar.md"


def objects() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(KUBERNETES.read_text())}


def pod() -> dict[str, Any]:
    found: dict[str, Any] = objects()["Deployment"]["spec"]["template"]["spec"]
    return found


def configured(tmp_path: Path) -> SidecarSettings:
    """The sidecar's settings as the container has them."""
    file = tmp_path / "engineroom.yaml"
    file.write_text(objects()["ConfigMap"]["data"]["engineroom.yaml"])
    (container,) = pod()["initContainers"]
    given = {each["name"]: each.get("value", "10.0.0.1") for each in container["env"]}
    for name, value in given.items():
        given[name] = re.sub(r"\$\((\w+)\)", lambda match: given[match[1]], value)
    return load(file, given).sidecar


def test_the_container_has_settings_that_fit_its_ports(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    (container,) = pod()["initContainers"]
    (engine,) = pod()["containers"]
    ports = {port["name"]: port["containerPort"] for each in (container, engine) for port in each["ports"]}
    assert split_address(settings.listen)[1] == ports["sidecar"]
    assert split_address(settings.admin_listen)[1] == ports["sidecar-admin"]
    assert settings.upstream == f"http://127.0.0.1:{ports['engine']}"
    assert settings.agent_url == "http://10.0.0.1:9440"
    assert settings.name == "10.0.0.1/10.0.0.1"
    assert settings.admin_auth.configured  # the address is not loopback
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] == ports["sidecar-admin"]
    (port,) = objects()["Service"]["spec"]["ports"]
    assert port["targetPort"] == ports["sidecar"]


def test_there_is_time_for_everybody_to_end(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    (engine,) = pod()["containers"]
    before = engine["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert before > settings.drain_seconds
    assert pod()["terminationGracePeriodSeconds"] > before + settings.drain_seconds + settings.ship_drain_seconds


def test_every_file_that_is_read_is_mounted(tmp_path: Path) -> None:
    settings = configured(tmp_path)
    (container,) = pod()["initContainers"]
    mounts = [Path(mount["mountPath"]) for mount in container["volumeMounts"]]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod()["volumes"]}
    for file in (settings.admin_auth.tokens[0].file, settings.agent_token_file, settings.spool_dir):
        assert file is not None
        assert any(file.is_relative_to(mount) for mount in mounts)


def examples(page: str) -> list[str]:
    """The YAML of a page that is about the agent or the sidecar."""
    found = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    parts = [part for block in found for part in re.split(r"^---\n", block, flags=re.MULTILINE)]
    return [part for part in parts if re.match(r"(sidecar|api|quotas):", part)]


@pytest.mark.parametrize("page", ["sidecar.md", "operations.md", "tenancy.md", "quotas.md"])
def test_every_example_is_a_configuration(page: str, tmp_path: Path) -> None:
    blocks = examples(page)
    assert blocks
    for number, block in enumerate(blocks):
        file = tmp_path / f"{number}.yaml"
        file.write_text(block)
        assert load(file, {}).model_fields_set == yaml.safe_load(block).keys()


def test_the_examples_show_every_part_of_the_sidecar() -> None:
    named = {key for block in examples("sidecar.md") for key in yaml.safe_load(block)["sidecar"]}
    assert named >= {"balance", "dial", "grpc", "limits", "sockets", "tenancy", "tls", "upstreams", "usage", "workers"}


def test_what_the_page_says_of_defaults_is_so() -> None:
    settings, text = SidecarSettings(), " ".join(PAGE.read_text().split())
    for key, value, shown in (
        ("eject_after_failures", 3, "three such failures"),
        ("eject_seconds", 1.0, "`eject_seconds` (1 s"),
        ("eject_max_seconds", 60.0, "`eject_max_seconds` (60 s)"),
        ("check_path", "/health", "`/health` (`balance.check_path`)"),
        ("check_interval_seconds", 5.0, "asked every 5 s"),
        ("sticky_load_ratio", 1.25, "`sticky_load_ratio` (1.25)"),
    ):
        assert getattr(settings.balance, key) == value
        assert shown in text
    limits, text = settings.limits, " ".join((ROOT / "docs/operations.md").read_text().split())
    for value, shown in (
        (limits.max_connections == 10_000, "`max_connections` (10,000)"),
        (limits.head_timeout_seconds == 10, "more than 10 s for a head"),
        (limits.min_body_bytes_per_second == 500, "500 bytes a second"),
        (limits.body_grace_seconds == 20, "over 20 s"),
        (limits.max_body_bytes == 2**30, "a body of more than 1 GiB"),
        (limits.max_pipelined == 64, "more than 64 requests"),
        (limits.idle_seconds == 75, "silent for 75 s"),
        (limits.crowded_idle_seconds == 5, "5 s when three quarters"),
        (settings.drain_seconds == 30, "(`drain_seconds`, 30 s)"),
        (settings.ship_drain_seconds == 5, "(`ship_drain_seconds`, 5 s)"),
    ):
        assert value, shown
        assert shown in text


@pytest.mark.long
@pytest.mark.component("kubectl")
def test_the_bypass_is_one_command_and_one_back() -> None:
    kubectl = need("kubectl")
    commands = re.findall(r"^ {4}(kubectl patch service llm .*)$", PAGE.read_text(), re.MULTILINE)
    service = json.dumps(objects()["Service"])
    seen = []
    for command in commands:
        _, verb, kind, name, *rest = shlex.split(command)
        assert (kind, name) == ("service", objects()["Service"]["metadata"]["name"])
        done = subprocess.run(
            [kubectl, verb, "--local", "-f", "-", "-o", "json", *rest],
            input=service,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        service = done.stdout
        spec = json.loads(service)["spec"]
        (port,) = spec["ports"]
        seen.append((port["port"], port["targetPort"], spec["publishNotReadyAddresses"]))
    assert seen == [(80, 8000, True), (80, 9480, False)]


@pytest.mark.long
@pytest.mark.component("systemd-analyze")
def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    text = UNIT.read_text().replace("/usr/local/bin/engineroom", "/bin/true").replace("User=engineroom", "User=root")
    unit = tmp_path / "engineroom-sidecar@.service"
    unit.write_text(text)
    done = subprocess.run(
        [need("systemd-analyze"), "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_names_settings_that_there_are_and_leaves_time_to_end() -> None:
    lines = [line.partition("=")[::2] for line in UNIT.read_text().splitlines() if "=" in line]
    given = dict(
        value.replace("%i", "9482").replace("%H", "host").split("=", 1) for key, value in lines if key == "Environment"
    )
    settings = load(None, given).sidecar
    assert settings.admin_listen == "127.0.0.1:9482"
    assert (settings.name, settings.spool_dir) == ("host:9482", Path("/var/lib/engineroom/sidecar-9482"))
    limit = float(dict(lines)["TimeoutStopSec"])
    assert limit > settings.drain_seconds + settings.ship_drain_seconds + 5  # workers: LAST_SECONDS
