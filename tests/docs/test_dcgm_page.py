import re
from pathlib import Path

from agent.api.dcgm_settings import DcgmSettings
from exporters.dcgm_fields import FIELDS, NOT_GIVEN

PAGE = (Path(__file__).resolve().parents[2] / "docs/dcgm.md").read_text()


def test_every_name_that_is_not_given_is_told_with_its_reason():
    rows = dict(re.findall(r"^\| `(DCGM_\w+)` \| (.+) \|$", PAGE.partition("## Not given")[2], re.MULTILINE))
    assert {name: reason.replace("`", "") for name, reason in rows.items()} == NOT_GIVEN


def test_every_other_name_on_the_page_exists():
    known = {f"DCGM_FI_{name}" for field in FIELDS for name in (field.name, field.new or field.name)}
    named = set(re.findall(r"`(DCGM_[A-Z0-9_]+)`", PAGE)) - NOT_GIVEN.keys()
    assert named - known == {"DCGM_EXP_XID_ERRORS_COUNT"}


def test_every_setting_on_the_page_exists():
    named = set(re.findall(r"`(\w+): \w", PAGE)) - {"honor_labels"}
    assert named <= DcgmSettings.model_fields.keys()
