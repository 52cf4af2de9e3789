"""connectors.yaml: what is read, and every mistake with its place and the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdc.config import Config, Place
from cdc.config_load import load
from cdc.errors import ConfigError

GOOD = """\
log: {type: embedded, path: .cdc}
state: {memory_max: 1.5GiB, checkpoint_interval_s: 2}
sources:
  shop:
    type: postgres
    url: postgresql://cdc:${SHOP_PASSWORD}@localhost:${PORT:-5432}/shop
    tables: [orders, "public.c*"]
views:
  order_search:
    sql: |
      SELECT o.id
      FROM shop.orders o
    key: id
sinks:
  warehouse:
    type: sql
    url: duckdb:///warehouse.duckdb
    from: [order_search, shop.customers]
"""
ENVIRON = {"SHOP_PASSWORD": "s3cret"}


def loaded(directory: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    file = directory / "connectors.yaml"
    file.write_text(text)
    return load(file, ENVIRON if environ is None else environ)


def mistakes(directory: Path, text: str, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as raised:
        loaded(directory, text, environ)
    return str(raised.value).replace(f"{directory}/", "")


def test_a_good_file_becomes_dataclasses(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD)
    shop, view = config.sources["shop"], config.views["order_search"]
    assert config.log.path == tmp_path / ".cdc"
    assert config.state.path == tmp_path / ".cdc" / "state"
    assert config.state.memory_max_bytes == 1.5 * 2**30
    assert shop.url == "postgresql://cdc:s3cret@localhost:5432/shop"
    assert shop.tables == ("public.orders", "public.c*")
    assert (shop.slot, shop.publication, shop.snapshot) == ("cdc_shop", "cdc_shop", "initial")
    assert view.key == ("id",)
    assert view.sql_place == Place(str(tmp_path / "connectors.yaml"), 11, 7)
    assert config.sinks["warehouse"].inputs == ("order_search", "shop.customers")


def test_an_empty_file_is_an_embedded_log_and_nothing_else(tmp_path: Path) -> None:
    config = loaded(tmp_path, "# nothing yet\n")
    assert (config.log.type, config.sources, config.sinks) == ("embedded", {}, {})


GOLDEN = {
    "unknown key": (
        ("    tables:", "    tabels:"),
        "connectors.yaml:5:5: source 'shop' has no `tables`\n  -> add `tables: ...`\n"
        "connectors.yaml:7:5: unknown key 'tabels' in source 'shop'\n  -> did you mean 'tables'?",
    ),
    "wrong type": (
        ("checkpoint_interval_s: 2", "checkpoint_interval_s: soon"),
        "connectors.yaml:2:52: checkpoint_interval_s must be a number of seconds, not 'soon'",
    ),
    "wrong size": (
        ("1.5GiB", "plenty"),
        "connectors.yaml:2:21: memory_max must be a size, not 'plenty'\n  -> write it as 500MiB",
    ),
    "wrong choice": (
        ("type: embedded", "type: embeded"),
        "connectors.yaml:1:13: type is 'embeded', not one of embedded, kafka\n"
        "  -> did you mean 'embedded'?",
    ),
    "duplicate key": (
        ("    type: sql", "    type: sql\n    type: sql"),
        "connectors.yaml:17:5: 'type' is given twice\n  -> it stands already on line 16",
    ),
    "reserved name": (
        ("  shop:", "  cdc:"),
        "connectors.yaml:4:3: 'cdc' is reserved and cannot be a source's name\n"
        "  -> choose another name\n"
        "connectors.yaml:18:26: there is no source 'shop'\n"
        "  -> did you mean 'cdc.customers'?",
    ),
    "shared name": (
        ("  order_search:", "  shop:"),
        "connectors.yaml:9:3: 'shop' is a source's name too\n"
        "  -> a view and a source may not share a name\n"
        "connectors.yaml:18:12: there is no view 'order_search'\n"
        "  -> there are: shop, shop.c*, shop.orders",
    ),
    "dangling table": (
        ("shop.customers", "shop.ordres"),
        "connectors.yaml:18:26: source 'shop' does not capture public.ordres\n"
        "  -> did you mean 'shop.orders'?",
    ),
    "mysql": (
        ("type: postgres", "type: mysql"),
        "connectors.yaml:5:11: source type 'mysql' is not supported yet in this version\n"
        "  -> it comes in a later version",
    ),
    "redis": (
        ("type: sql", "type: redis"),
        "connectors.yaml:16:11: sink type 'redis' is not supported yet in this version\n"
        "  -> it comes in a later version",
    ),
    "registry": (
        ("type: embedded", "type: embedded, schema_registry: x"),
        "connectors.yaml:1:23: `schema_registry` is not supported yet in this version\n"
        "  -> it comes in a later version",
    ),
    "kafka's options": (
        ("type: embedded", "type: embedded, partitions: 4"),
        "connectors.yaml:1:35: `partitions` belongs to a log of type kafka\n  -> set `type: kafka`",
    ),
    "no YAML": (
        ("sources:", "sources: ["),
        "connectors.yaml:5:9: not YAML: expected ',' or ']', but got ':' while parsing a flow "
        "sequence",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_mistake_is_reported_with_its_place_and_the_way_out(tmp_path: Path, name: str) -> None:
    (old, new), expected = GOLDEN[name]
    assert old in GOOD
    assert mistakes(tmp_path, GOOD.replace(old, new, 1)) == expected


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    assert mistakes(tmp_path, GOOD, {}) == (
        "connectors.yaml:6:10: the environment has no variable SHOP_PASSWORD\n"
        "  -> export SHOP_PASSWORD=..., or write ${SHOP_PASSWORD:-default}"
    )


def test_a_value_from_the_environment_never_appears(tmp_path: Path) -> None:
    text = mistakes(tmp_path, GOOD, {"SHOP_PASSWORD": "p@ss/w:rd", "PORT": "none"})
    assert "percent-encode" in text
    assert "p@ss" not in text and "w:rd" not in text


def test_two_dollars_stand_for_one(tmp_path: Path) -> None:
    config = loaded(tmp_path, GOOD.replace("SELECT o.id", "SELECT '$${x}', o.id"))
    assert "'${x}'" in config.views["order_search"].sql


def test_a_missing_file_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "nowhere.yaml", {})
