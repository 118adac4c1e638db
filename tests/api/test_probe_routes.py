from agent.api.app import build_api
from agent.api.probes import PATHS
from tests.support.api import node, open_doors


def test_every_probe_is_on_the_api_port_with_a_summary():
    # What they answer is compared with the probes' own port in test_probes.py.
    paths = build_api(node(), open_doors()).openapi()["paths"]
    assert all(paths[path]["get"]["summary"].startswith("200") for path in PATHS)
