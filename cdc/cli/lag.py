"""How far one position is behind another, in the unit that the positions have.

Postgres's LSNs, MySQL's binlog files   bytes; of several files it is not known without asking
GTIDs                                   transactions
offsets of topics                       changes
"""

from __future__ import annotations

from cdc.positions import BinlogPosition, GtidSet, Lsn, MariaGtid, NativePosition, TopicOffsets


def lag_unit(position: NativePosition) -> str:
    """The name under which `cdc status --json` has the lag."""
    if isinstance(position, GtidSet | MariaGtid):
        return "lag_transactions"
    return "lag_changes" if isinstance(position, TopicOffsets) else "lag_bytes"


def lag_between(reached: NativePosition, now: NativePosition) -> int | None:
    """How much there is up to `now` and not up to `reached`; None: not known.

    >>> lag_between(Lsn(10), Lsn(14))
    4
    >>> lag_between(MariaGtid.parse("0-1-7"), MariaGtid.parse("0-2-9+1-1-1"))
    3
    """
    if isinstance(now, Lsn) and isinstance(reached, Lsn):
        return now.value - reached.value
    if isinstance(now, TopicOffsets) and isinstance(reached, TopicOffsets):
        return now.minus(reached)
    if isinstance(now, GtidSet) and isinstance(reached, GtidSet):
        return now.minus(reached)
    if isinstance(now, MariaGtid) and isinstance(reached, MariaGtid):
        return now.minus(reached)
    if isinstance(now, BinlogPosition) and isinstance(reached, BinlogPosition):
        return now.offset - reached.offset if now.file == reached.file else None
    return None
