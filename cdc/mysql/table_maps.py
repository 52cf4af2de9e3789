"""TABLE_MAP events: which table the rows behind have, and its columns.

A table map always tells each column's type and metadata. The rest is optional (MySQL's
binlog_row_metadata, default MINIMAL; MariaDB's, default NO_LOG):

    MINIMAL   signedness, character sets                        `TableMap.typed`
    FULL      also names, labels, key, visibility               `TableMap.named`

What it leaves out comes from the table as the catalog knows it (`resolve`), and only when both
agree in all that both say. MariaDB never tells about JSON, UUID and INET, nor either server about
defaults and generated columns: these are the catalog's, by name.

The body is a fixed head, and then fields of (type, length, value); numbers are length-encoded.
Source: libbinlogevents' rows_event.h (Optional_metadata_fields) and the servers' sql/log_event.cc.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from cdc.errors import BadData, SchemaChanged
from cdc.mysql.charsets import charset_of
from cdc.mysql.events import HEADER_BYTES, Reader, malformed
from cdc.mysql.tables import MyColumn, MyTable, MyType
from cdc.mysql.types import BLOBS, INTEGER_BYTES, OLDER_FORMS, STRINGS, FieldType, declared

_BODY = HEADER_BYTES + 8
"""Behind the table id and the flags, which say nothing about the table."""

_TWO_BYTES = frozenset({
    FieldType.STRING, FieldType.VAR_STRING, FieldType.VARCHAR, FieldType.VARCHAR_COMPRESSED,
    FieldType.NEWDECIMAL, FieldType.ENUM, FieldType.SET, FieldType.BIT,
})  # fmt: skip
_ONE_BYTE = frozenset({
    FieldType.BLOB, FieldType.TINY_BLOB, FieldType.MEDIUM_BLOB, FieldType.LONG_BLOB,
    FieldType.BLOB_COMPRESSED, FieldType.DOUBLE, FieldType.FLOAT, FieldType.TIMESTAMP2,
    FieldType.DATETIME2, FieldType.TIME2, FieldType.JSON, FieldType.GEOMETRY, FieldType.VECTOR,
})  # fmt: skip
_BLOB_SIZES = frozenset({FieldType.TINY_BLOB, FieldType.MEDIUM_BLOB, FieldType.LONG_BLOB})

# Optional_metadata_field_type
_SIGNEDNESS, _DEFAULT_CHARSET, _COLUMN_CHARSET, _NAMES, _SET_LABELS, _ENUM_LABELS = range(1, 7)
_SIMPLE_KEY, _PREFIX_KEY, _LABELS_DEFAULT_CHARSET, _LABELS_CHARSET, _VISIBILITY = range(8, 13)

_NUMBERS = frozenset({
    *INTEGER_BYTES, FieldType.FLOAT, FieldType.DOUBLE, FieldType.NEWDECIMAL, FieldType.YEAR,
    FieldType.DECIMAL,
})  # fmt: skip
"""The types that have a bit of signedness (is_numeric_type)."""
_LABELLED = frozenset({FieldType.ENUM, FieldType.SET})
_CHARACTERS = STRINGS | BLOBS | {FieldType.VAR_STRING}


@dataclass(frozen=True)
class TableMap:
    """A table as one TABLE_MAP event describes it. `name` is `database.table`. Columns have name
    '' unless `named`; signedness and collations only where `typed`. `key`: names of the primary
    key's columns, else those of the unique index that the server takes for it, () where there is
    none or it is not said."""

    name: str
    columns: tuple[MyColumn, ...]
    key: tuple[str, ...]
    typed: bool
    named: bool


def table_name(event: bytes) -> str:
    """`database.table` of a TABLE_MAP, without a look at its columns. BadData when malformed."""
    try:
        reader = Reader(event, _BODY)
        return f"{_name(reader)}.{_name(reader)}"
    except (BadData, ValueError, IndexError) as error:
        raise malformed("a table map that cannot be read", event) from error


def table_map(event: bytes, *, mariadb: bool) -> TableMap:
    """TABLE_MAP (its number: events.table_id). Equal events give the same object, so that what
    follows from one can be kept by it. BadData when it is malformed."""
    try:
        return _parsed(event[_BODY:], mariadb)
    except (BadData, ValueError, IndexError, UnicodeDecodeError) as error:
        raise malformed("a table map that cannot be read", event) from error


@lru_cache(maxsize=4096)
def _parsed(body: bytes, mariadb: bool) -> TableMap:
    reader = Reader(body, 0)
    database = _name(reader)
    table = _name(reader)
    codes = reader.take(reader.packed())
    reader.packed()
    kinds = [_kind(code, reader) for code in codes]
    nulls = int.from_bytes(reader.take((len(codes) + 7) // 8), "little")
    optional = _optional(reader)
    kinds = _typed(kinds, optional, mariadb)
    names = _texts(optional.get(_NAMES, b""))
    visible = _bits(optional[_VISIBILITY]) if _VISIBILITY in optional else [True] * len(codes)
    columns = tuple(
        MyColumn(
            names[number] if names else "",
            kind,
            bool(nulls >> number & 1),
            invisible=not visible[number],
        )
        for number, kind in enumerate(kinds)
    )
    key = tuple(names[number] for number in _key(optional)) if names else ()
    return TableMap(f"{database}.{table}", columns, key, bool(optional), bool(names))


def _name(reader: Reader) -> str:
    name = reader.take(reader.number(1)).decode()
    reader.skip(1)
    return name


def _kind(code: int, reader: Reader) -> MyType:
    """A column's type from its code and its metadata, without what is optional."""
    if code in _ONE_BYTE:
        meta = reader.number(1)
        return MyType(FieldType.BLOB if code in _BLOB_SIZES else code, meta)
    if code not in _TWO_BYTES:
        return MyType(code)
    first, second = reader.take(2)
    if code in (FieldType.STRING, FieldType.ENUM, FieldType.SET):
        return _string(first, second)
    if code == FieldType.NEWDECIMAL:
        return MyType(code, first << 8 | second)
    meta = first | second << 8
    if code == FieldType.VARCHAR_COMPRESSED:
        meta -= 1
    return MyType(FieldType.VARCHAR if code == FieldType.VAR_STRING else code, meta)


def _string(first: int, second: int) -> MyType:
    """CHAR, ENUM and SET share a code: the first byte is the real one, in which two bits, when
    not both set, are the inverted bits 8 and 9 of a CHAR's length (Field_string::pack)."""
    code = first | 0x30
    if code in _LABELLED:
        return MyType(code, second)
    return MyType(FieldType.STRING, second | ((first & 0x30) ^ 0x30) << 4)


_Optional = Mapping[int, bytes]


def _optional(reader: Reader) -> _Optional:
    found = {}
    while reader.more():
        field = reader.number(1)
        found[field] = reader.take(reader.packed())
    return found


def _typed(kinds: Sequence[MyType], optional: _Optional, mariadb: bool) -> list[MyType]:
    """The types with what the optional fields say about them."""
    found = list(kinds)
    numbers = [n for n, kind in enumerate(kinds) if kind.code in _NUMBERS]
    for number, unsigned in zip(numbers, _bits(optional.get(_SIGNEDNESS, b"")), strict=False):
        found[number] = replace(found[number], unsigned=_has_sign(found[number]) and unsigned)
    character_codes = _CHARACTERS | {FieldType.GEOMETRY} if mariadb else _CHARACTERS
    characters = [n for n, kind in enumerate(kinds) if kind.code in character_codes]
    labelled = [n for n, kind in enumerate(kinds) if kind.code in _LABELLED]
    for members, default, each in (
        (characters, _DEFAULT_CHARSET, _COLUMN_CHARSET),
        (labelled, _LABELS_DEFAULT_CHARSET, _LABELS_CHARSET),
    ):
        collations = _collations(optional, default, each, len(members))
        for number, collation in zip(members, collations, strict=False):
            if kinds[number].code != FieldType.GEOMETRY:
                found[number] = replace(found[number], collation=collation)
    for code, field in ((FieldType.ENUM, _ENUM_LABELS), (FieldType.SET, _SET_LABELS)):
        own = [number for number in labelled if kinds[number].code == code]
        lists = _label_lists(optional.get(field, b""))
        for number, labels in zip(own, lists, strict=False):
            collation = found[number].collation
            codec = (charset_of(collation).codec if collation else None) or "utf-8"
            errors = "strict" if collation else "replace"
            texts = tuple(label.decode(codec, errors) for label in labels)
            found[number] = replace(found[number], labels=texts)
    return found


def _has_sign(kind: MyType) -> bool:
    # YEAR's bit is set, and that of decimals and floats with ZEROFILL or UNSIGNED: their values
    # read the same.
    return kind.code in INTEGER_BYTES


def _collations(optional: _Optional, default: int, each: int, count: int) -> list[int]:
    """Collations of the columns, which are either all listed, or the exceptions to a default."""
    if each in optional:
        return _integers(optional[each])
    if default not in optional:
        return []
    first, *exceptions = _integers(optional[default])
    found = [first] * count
    for number, collation in zip(exceptions[::2], exceptions[1::2], strict=True):
        found[number] = collation
    return found


def _key(optional: _Optional) -> list[int]:
    if _SIMPLE_KEY in optional:
        return _integers(optional[_SIMPLE_KEY])
    return _integers(optional.get(_PREFIX_KEY, b""))[::2]


def _bits(field: bytes) -> list[bool]:
    return [bool(byte >> place & 1) for byte in field for place in range(7, -1, -1)]


def _integers(field: bytes) -> list[int]:
    reader, found = Reader(field, 0), []
    while reader.more():
        found.append(reader.packed())
    return found


def _texts(field: bytes) -> list[str]:
    reader, found = Reader(field, 0), []
    while reader.more():
        found.append(reader.take(reader.packed()).decode())
    return found


def _label_lists(field: bytes) -> Iterator[list[bytes]]:
    reader = Reader(field, 0)
    while reader.more():
        yield [reader.take(reader.packed()) for _ in range(reader.packed())]


def resolve(found: TableMap, known: MyTable | None) -> MyTable:
    """The table whose rows follow the table map: what it says, completed from the table as the
    catalog knows it, None if it does not. SchemaChanged when they do not fit together."""
    if found.named:
        return _completed(found, known)
    if known is None or not _fits(found, known):
        raise SchemaChanged(
            "the binlog's rows are not those of the table as it is known",
            where=found.name,
            hint="set binlog_row_metadata=FULL, so that the binlog itself says what the columns "
            "are; then take the table's snapshot again",
        )
    pairs = zip(found.columns, known.columns, strict=True)
    columns = tuple(replace(own, kind=_form(column.kind, own.kind)) for column, own in pairs)
    return replace(known, columns=columns)


def _completed(found: TableMap, known: MyTable | None) -> MyTable:
    if known is None:
        return MyTable(found.name, found.columns, found.key)
    by_name = {column.name: column for column in known.columns}
    columns = tuple(_with_known(column, by_name.get(column.name)) for column in found.columns)
    return replace(known, columns=columns, key=found.key)


def _with_known(column: MyColumn, known: MyColumn | None) -> MyColumn:
    if known is None:
        return column
    told = _told(column.kind, known.kind)
    same = _same(told, known.kind, typed=True) and told.labels == known.kind.labels
    kind = _form(column.kind, known.kind) if same else column.kind
    return replace(column, kind=kind, generated=known.generated, default=known.default)


def _told(found: MyType, known: MyType) -> MyType:
    """With the collation of ENUM and SET, which the first releases of MySQL 8.0 do not tell: then
    labels that are not UTF-8 are taken for the known ones."""
    if found.code not in _LABELLED or found.collation:
        return found
    labels = tuple(
        own if _UNREADABLE in label else label
        for label, own in zip(found.labels, known.labels, strict=False)
    )
    labels += found.labels[len(labels) :]
    return replace(found, collation=known.collation, labels=labels)


_UNREADABLE = "\N{REPLACEMENT CHARACTER}"


def _form(found: MyType, known: MyType) -> MyType:
    """The known type, in the form in which the rows have it. Of an older form, a table map does
    not say how many digits the fraction has."""
    return replace(known, code=found.code) if found.code in OLDER_FORMS else known


def _fits(found: TableMap, known: MyTable) -> bool:
    if len(found.columns) != len(known.columns):
        return False
    return all(
        _same(column.kind, known_column.kind, found.typed)
        for column, known_column in zip(found.columns, known.columns, strict=True)
    )


def _same(found: MyType, known: MyType, typed: bool) -> bool:
    if declared(found).code != declared(known).code:
        return False
    if found.code not in OLDER_FORMS and found.meta != known.meta:
        return False
    if not typed:
        return True
    signs = not _has_sign(found) or found.unsigned == known.unsigned
    # The character set of ENUM and SET is told with their labels, not with that of texts.
    return signs and (not found.collation or found.collation == known.collation)
