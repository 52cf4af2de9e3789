"""Which frontiers of several producers show one state of their sources (SEMANTICS 34).

Every producer's frontiers form a chain: each source's position only grows along it. Begin at the
newest of each chain. While two producers disagree about a source, step back whoever is ahead. The
first combination without disagreement is the newest there is, since no combination that was
stepped over agreed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cdc.frontiers import Frontier


def agreed(histories: Mapping[str, Sequence[Frontier]]) -> dict[str, Frontier]:
    """The newest frontiers, one per name, with one position per source; empty: there are none.

    `histories` are frontiers per name, oldest first, at least one each.
    """
    at = {name: len(chain) - 1 for name, chain in histories.items()}
    while True:
        chosen = {name: histories[name][i] for name, i in at.items()}
        ahead = _ahead(chosen)
        if not ahead:
            return chosen
        for name in ahead:
            at[name] -= 1
            if at[name] < 0:
                return {}


def _ahead(chosen: Mapping[str, Frontier]) -> set[str]:
    """The names that are further than another in some source."""
    ahead = set()
    for name, frontier in chosen.items():
        for other in chosen.values():
            for source, position in frontier.positions.items():
                if source in other.positions and not other.positions[source].covers(position):
                    ahead.add(name)
    return ahead
