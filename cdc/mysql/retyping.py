"""ALTER TABLE … MODIFY: whether every value of a column stays what it was.

MySQL converts the rows without writing them to the binlog. A conversion that widens keeps all
values; one that could cut, round, pad or reinterpret does not, whatever the rows hold now.
"""

from __future__ import annotations

from collections.abc import Mapping

from cdc.mysql.charsets import charset_of
from cdc.mysql.tables import MyType
from cdc.mysql.types import BLOBS, INTEGER_BYTES, FieldType, is_binary

_WITH_FRACTION: Mapping[int, int] = {
    FieldType.DATETIME: FieldType.DATETIME2,
    FieldType.TIMESTAMP: FieldType.TIMESTAMP2,
    FieldType.TIME: FieldType.TIME2,
}
_VARCHARS = (FieldType.VARCHAR, FieldType.VARCHAR_COMPRESSED)


def carries(then: MyType, now: MyType) -> bool:
    """Whether the server's conversion from `then` to `now` leaves every value equal."""
    if then.native != now.native or then.json != now.json:
        return False
    code, other = _modern(then.code), _modern(now.code)
    if code in INTEGER_BYTES and other in INTEGER_BYTES:
        return then.unsigned == now.unsigned and INTEGER_BYTES[other] >= INTEGER_BYTES[code]
    if code == FieldType.FLOAT and other == FieldType.DOUBLE:
        return True
    if _is_string(code) and _is_string(other):
        return _string_carries(then, now)
    if code != other:
        return False
    if code == FieldType.NEWDECIMAL:
        scale, wider = then.meta & 0xFF, now.meta & 0xFF
        whole = (now.meta >> 8) - wider >= (then.meta >> 8) - scale
        return whole and wider >= scale and (then.unsigned or not now.unsigned)
    if code in _WITH_FRACTION.values():
        return now.meta >= then.meta
    if code == FieldType.ENUM:
        return set(then.labels) <= set(now.labels)
    if code == FieldType.SET:  # its labels are printed in their order
        return then.labels == tuple(label for label in now.labels if label in then.labels)
    return then.meta == now.meta


def _modern(code: int) -> int:
    return _WITH_FRACTION.get(code, code)


def _is_string(code: int) -> bool:
    return code in (*_VARCHARS, FieldType.STRING) or code in BLOBS


def _string_carries(then: MyType, now: MyType) -> bool:
    if is_binary(then) != is_binary(now):
        return False
    if now.code == FieldType.STRING and (then.code != FieldType.STRING or is_binary(now)):
        return then.code == now.code and then.meta == now.meta  # CHAR strips, BINARY pads
    if not is_binary(then) and not _covers(then, now):
        return False
    return _capacity_bytes(then, now) <= _capacity_bytes(now, now)


def _covers(then: MyType, now: MyType) -> bool:
    """Whether the newer character set has every character of the older one."""
    old, new = charset_of(then.collation), charset_of(now.collation)
    return old.name == new.name or new.name.startswith(("utf8mb4", "utf16", "utf32"))


def _capacity_bytes(kind: MyType, target: MyType) -> int:
    """What the column can hold, in bytes of the target's character set."""
    if kind.code in BLOBS:
        longest = 256**kind.meta - 1
        return longest if is_binary(kind) else longest * _growth(kind, target)
    if is_binary(kind):
        return kind.meta
    return kind.meta // charset_of(kind.collation).width * charset_of(target.collation).width


def _growth(kind: MyType, target: MyType) -> int:
    same = charset_of(kind.collation).name == charset_of(target.collation).name
    return 1 if same else charset_of(target.collation).width
