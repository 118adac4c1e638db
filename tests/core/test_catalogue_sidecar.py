from agent.core.catalogue import CATALOGUE
from agent.core.catalogue_sidecar import SIDECAR


def test_all_of_them_are_catalogued_and_say_whose_they_are() -> None:
    assert set(SIDECAR) <= set(CATALOGUE)
    assert all(metric.name.startswith("engineroom_sidecar_") for metric in SIDECAR)


def test_every_one_of_the_sidecars_own_is_here() -> None:
    assert {m.name for m in CATALOGUE if m.name.startswith("engineroom_sidecar_")} == {m.name for m in SIDECAR}
