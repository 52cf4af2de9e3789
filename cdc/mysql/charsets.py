"""Character sets: which one a collation belongs to, and what Python calls it.

The binlog knows collations by their number. The numbers below are those of information_schema.
COLLATIONS (MySQL 8.0) and COLLATION_CHARACTER_SET_APPLICABILITY (MariaDB 10.11) together; the two
never use one number for different character sets. MariaDB's numbers from 1024 on are the NOPAD
forms of the older ones, and from 2048 on the UCA 14.0.0 collations, in blocks per character set.

Python's codecs were compared with both servers, all codes of one and two bytes. The differences
are in `changes` and in charset_tables.py, but for seven symbols of big5 (A15A, A1C3, A1C5, A1FE,
A240, A2CC, A2CE), which the servers print as U+FFFD and Python decodes; eucjpms is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cdc.errors import SourceError


@dataclass(frozen=True)
class Charset:
    """`width`: bytes of the widest character (CHARACTER_SETS.MAXLEN). `codec`: Python's name;
    '': Python has none, or another one. `changes`: what Python decodes, and the servers otherwise.
    """

    name: str
    width: int
    codec: str
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def decodable(self) -> bool:
        """Whether its text can be read here: by a codec, or by a table of its 256 characters."""
        return self.codec != "" or self.width == 1


_NAMED = (
    Charset("armscii8", 1, ""),
    Charset("ascii", 1, "ascii"),
    Charset("big5", 2, "big5"),
    Charset("binary", 1, ""),
    Charset("cp1250", 1, "cp1250"),
    Charset("cp1251", 1, "cp1251"),
    Charset("cp1256", 1, "cp1256"),
    Charset("cp1257", 1, "cp1257"),
    Charset("cp850", 1, "cp850"),
    Charset("cp852", 1, "cp852"),
    Charset("cp866", 1, "cp866"),
    Charset("cp932", 2, "cp932"),
    Charset("dec8", 1, ""),
    Charset("eucjpms", 3, ""),
    Charset("euckr", 2, "cp949"),
    Charset("gb18030", 4, "gb18030", (("\ue7c7", "\u1e3f"),)),
    Charset("gb2312", 2, "gb2312"),
    Charset("gbk", 2, "gbk"),
    Charset("geostd8", 1, ""),
    Charset("greek", 1, "iso8859-7"),
    Charset("hebrew", 1, "iso8859-8"),
    Charset("hp8", 1, "hp-roman8"),
    Charset("keybcs2", 1, ""),
    Charset("koi8r", 1, "koi8-r"),
    Charset("koi8u", 1, "koi8-u"),
    Charset("latin1", 1, "cp1252"),
    Charset("latin2", 1, "iso8859-2"),
    Charset("latin5", 1, "iso8859-9"),
    Charset("latin7", 1, "iso8859-13"),
    Charset("macce", 1, "mac-latin2"),
    Charset("macroman", 1, "mac-roman"),
    Charset("sjis", 2, "shift_jis", (("\uff3c", "\\"),)),
    Charset("swe7", 1, ""),
    Charset("tis620", 1, "tis-620"),
    Charset("ucs2", 2, "utf-16-be"),
    Charset("ujis", 3, "euc_jp", (("\uff3c", "\\"),)),
    Charset("utf16", 4, "utf-16-be"),
    Charset("utf16le", 4, "utf-16-le"),
    Charset("utf32", 4, "utf-32-be"),
    Charset("utf8mb3", 3, "utf-8"),
    Charset("utf8mb4", 4, "utf-8"),
)
CHARSETS: Mapping[str, Charset] = {charset.name: charset for charset in _NAMED}

_OLD: Mapping[str, tuple[int, ...]] = {
    "armscii8": (32, 64), "ascii": (11, 65), "big5": (1, 84), "binary": (63,),
    "cp1250": (26, 34, 44, 66, 99), "cp1251": (14, 23, 50, 51, 52), "cp1256": (57, 67),
    "cp1257": (29, 58, 59), "cp850": (4, 80), "cp852": (40, 81), "cp866": (36, 68),
    "cp932": (95, 96), "dec8": (3, 69), "eucjpms": (97, 98), "euckr": (19, 85),
    "gb18030": (248, 249, 250), "gb2312": (24, 86), "gbk": (28, 87), "geostd8": (92, 93),
    "greek": (25, 70), "hebrew": (16, 71), "hp8": (6, 72), "keybcs2": (37, 73),
    "koi8r": (7, 74), "koi8u": (22, 75), "latin1": (5, 8, 15, 31, 47, 48, 49, 94),
    "latin2": (2, 9, 21, 27, 77), "latin5": (30, 78), "latin7": (20, 41, 42, 79),
    "macce": (38, 43), "macroman": (39, 53), "sjis": (13, 88), "swe7": (10, 82),
    "tis620": (18, 89), "ucs2": (35, 90, *range(128, 152), 159), "ujis": (12, 91),
    "utf16": (54, 55, *range(101, 125)), "utf16le": (56, 62), "utf32": (60, 61, *range(160, 184)),
    "utf8mb3": (33, 76, 83, *range(192, 216), 223),
    "utf8mb4": (45, 46, *range(224, 248), *range(255, 400)),
}  # fmt: skip
_MARIADB_BLOCKS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "utf8mb3": ((576, 607), (2048, 2303)),
    "utf8mb4": ((608, 639), (2304, 2559)),
    "ucs2": ((640, 671), (2560, 2815)),
    "utf16": ((672, 703), (2816, 3071)),
    "utf32": ((736, 767), (3072, 3327)),
}
_NOPAD = 1024
_HINT = "convert the column to utf8mb4, or leave the table out"


def _by_collation() -> dict[int, Charset]:
    found: dict[int, Charset] = {}
    for name, numbers in _OLD.items():
        charset = CHARSETS[name]
        found.update(dict.fromkeys(numbers, charset))
        found.update({number + _NOPAD: charset for number in numbers if number < _NOPAD})
    for name, blocks in _MARIADB_BLOCKS.items():
        for first, last in blocks:
            found.update(dict.fromkeys(range(first, last + 1), CHARSETS[name]))
            if last < _NOPAD:
                nopad = range(first + _NOPAD, last + 1 + _NOPAD)
                found.update(dict.fromkeys(nopad, CHARSETS[name]))
    return found


_BY_COLLATION = _by_collation()


def charset_of(collation: int) -> Charset:
    """The character set of a collation. SourceError for a number that is not known."""
    found = _BY_COLLATION.get(collation)
    if found is None:
        raise SourceError(f"text of the unknown collation {collation}", hint=_HINT)
    return found


def text_charset(collation: int) -> Charset:
    """The character set of a text column. SourceError when its text cannot be decoded."""
    found = charset_of(collation)
    if not found.decodable:
        raise SourceError(f"text in {found.name}", hint=_HINT)
    return found
