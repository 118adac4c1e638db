import re
from pathlib import Path

import yaml

from agent.config import Settings, load
from docs.generate import PAGES, ROOT, settings_of

EXAMPLE = ROOT / "deploy/examples/engineroom.yaml"


def test_generated_pages_are_up_to_date() -> None:
    for name, make in PAGES.items():
        assert (ROOT / name).read_text() == make(), f"{name}: run ./dev docs"


def test_the_example_is_the_defaults() -> None:
    assert load(EXAMPLE, {}) == Settings()


def test_the_example_names_every_setting_where_it_belongs() -> None:
    """With every commented key uncommented, the file has exactly the keys that the settings have."""
    text = "\n".join(
        re.sub(r"#(- )?(?=[a-z0-9_]+:)", r"\1", line, count=1) for line in EXAMPLE.read_text().splitlines()
    )
    assert sorted(_paths(yaml.safe_load(text))) == sorted(path for path, _ in settings_of(Settings))


def _paths(tree: object, prefix: str = "") -> list[str]:
    if isinstance(tree, dict) and tree:
        return [path for key, value in tree.items() for path in _paths(value, f"{prefix}.{key}" if prefix else key)]
    if isinstance(tree, list) and tree and isinstance(tree[0], dict):
        return [path for value in tree for path in _paths(value, f"{prefix}[]")]
    return [prefix]


def test_every_metric_in_rules_and_docs_is_in_the_catalogue() -> None:
    from agent.core.catalogue import CATALOGUE

    known = {m.name + suffix for m in CATALOGUE for suffix in ("", "_bucket", "_sum", "_count")}
    known |= {"engineroom_sidecar_"}
    files = [*(ROOT / "alert-rules").glob("*.y*ml"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    unknown = {
        (Path(file).name, name)
        for file in files
        for name in re.findall(r"\bengineroom_[a-z0-9_]+\b(?!\*)", file.read_text())
        if name not in known and not name.startswith("engineroom_sidecar_")
    }
    assert not unknown
