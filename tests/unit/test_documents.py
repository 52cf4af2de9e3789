"""What the documents show is configuration that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cdc.config_load import load

ROOT = Path(__file__).parents[2]
URLS = {"DEMO_SHOP_URL": "postgresql://h/shop", "DEMO_REDIS_URL": "redis://h"}
AROUND = """\
sources:
  shop: {type: postgres, url: "postgresql://localhost/shop", tables: [public.*]}
views:
  order_search: {sql: SELECT 1}
  sales_by_product: {sql: SELECT 1}
"""


def examples() -> dict[str, str]:
    """Each YAML block of the documents, by file and number; what it leaves out is added."""
    found = {}
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        blocks = re.findall(r"```yaml\n(.*?)```", file.read_text(), re.DOTALL)
        for number, block in enumerate(blocks, 1):
            found[f"{file.name} {number}"] = block if "sources:" in block else AROUND + block
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
