"""A configuration that holds nothing but views."""

from __future__ import annotations

from pathlib import Path

from cdc.config import Config, LogConfig, Place, StateConfig, ViewConfig


def config(**views: str) -> Config:
    """`views`: SQL by name."""
    place = Place("connectors.yaml", 1, 1)
    made = {name: ViewConfig(name, sql, place, place) for name, sql in views.items()}
    log = LogConfig("embedded", Path(".cdc"))
    return Config(Path("connectors.yaml"), log, StateConfig(Path(".cdc/state")), {}, made, {})
