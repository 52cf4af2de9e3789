"""What the documents show is configuration that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdc.config_load import load

ROOT = Path(__file__).parents[2]
URLS = {"DEMO_SHOP_URL": "postgresql://h/shop", "DEMO_REDIS_URL": "redis://h"}
SOURCES = """\
sources:
  shop: {type: postgres, url: "postgresql://localhost/shop", tables: [public.*]}
"""


def whole(block: str) -> str:
    """A configuration from a part of one: sinks get the source and the views that they name."""
    if "sources:" in block:
        return block
    named = " ".join(re.findall(r"from: \[?([^\]#\n]+)", block)).replace(",", " ").split()
    views = "".join(f"  {name}: {{sql: SELECT 1}}\n" for name in set(named) if "." not in name)
    return f"{SOURCES}views:\n{views}" + ("sinks:\n" if block.startswith(" ") else "") + block


def examples() -> dict[str, str]:
    """Each YAML block of the documents, by file and number."""
    found: dict[str, str] = {}
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"```yaml\n(.*?)```", file.read_text(), re.DOTALL)
        found |= {f"{file.name} {number}": whole(text) for number, text in enumerate(blocks, 1)}
    for file in (ROOT / "connectors.yaml", ROOT / "demo" / "connectors.yaml"):
        found[str(file.relative_to(ROOT))] = file.read_text()
    return found


@pytest.mark.parametrize("name", examples())
def test_an_example_of_the_documents_loads(tmp_path: Path, name: str) -> None:
    file = tmp_path / "connectors.yaml"
    text = examples()[name]
    file.write_text(text)
    config = load(file, {n: URLS.get(n, "x") for n in re.findall(r"\$\{(\w+)}", text)})
    assert config.sinks or config.views or config.sources


def test_links_between_documents_lead_somewhere() -> None:
    files = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")]
    for file in files:
        for target in re.findall(r"\]\(([^)#:]+\.md)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
