"""Our table against the catalogue that it was made from."""

import csv
from pathlib import Path

import pytest

from agent.core.xids import XIDS

CATALOGUE = Path(__file__).resolve().parents[3] / "shared/captures/gpu/leptonai-gpud/xid_catalog.tsv"


@pytest.mark.skipif(not CATALOGUE.exists(), reason="the captures lie outside this repository")
def test_all_codes_with_nvidias_word_for_the_action():
    with CATALOGUE.open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(XIDS) == 172
    for row in rows:
        known = XIDS[int(row["xid"])]
        assert known.mnemonic in row["mnemonic"]
        assert known.action == (row["immediate_resolution"].strip() or "NOT_STATED")
        assert (known.kind == "unused") == (row["description"] == "Unused")
