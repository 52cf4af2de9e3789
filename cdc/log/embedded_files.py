"""The embedded log's files: where they are, how they open, what they hold (SEMANTICS 14).

    <log.path>/log/<producer>.db            one source's or one view group's topics and frontiers
    <log.path>/log/consumers/<name>.db      one consumer's positions and floor
    <log.path>/log/dead-letters.db          the topic `dead-letters`
    <log.path>/log/compaction.lock          held by the one process that compacts

All are SQLite in WAL mode: a commit is one fdatasync, readers never wait for the writer. A row of
`batches` is one appended batch of one partition; its id is

    partition id << 44 | base offset

so that a range of offsets is a range of rowids. The row covers offsets [base, next): the next row
of the partition begins exactly at `next`, also after compaction, and the last row of a partition
is never deleted; hence a gap is always damage, and the end offset is the last row's `next`.
Frontier records have ids made the same way. Ids of topics are never used twice, so that a reader
that still holds one of a removed topic finds nothing rather than another topic's records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from cdc.errors import LogDamaged, LogError

OFFSET_BITS = 44
OFFSET_MASK = (1 << OFFSET_BITS) - 1
FORMAT_VERSION = 1
PAGE_BYTES = 16_384
BUSY_TIMEOUT_MS = 30_000

_NETWORK_FILE_SYSTEMS = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "afs",
        "ceph",
        "lustre",
        "glusterfs",
        "gpfs",
        "davfs",
        "fuse.sshfs",
        "fuse.glusterfs",
        "fuse.ceph",
        "fuse.s3fs",
        "fuse.davfs2",
    )
)

_PRODUCER_TABLES = """
CREATE TABLE producer (
    one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL, epoch INTEGER NOT NULL,
    owner TEXT NOT NULL);
CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, generation TEXT NOT NULL,
    superseded_us INTEGER NOT NULL DEFAULT 0, tombstones_us INTEGER NOT NULL DEFAULT 0);
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, number INTEGER NOT NULL,
    UNIQUE (topic, number));
CREATE TABLE schemas (
    topic INTEGER NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (topic, version));
CREATE TABLE batches (
    id INTEGER PRIMARY KEY, next INTEGER NOT NULL, count INTEGER NOT NULL,
    version INTEGER NOT NULL, with_before INTEGER NOT NULL, appended_us INTEGER NOT NULL,
    crc INTEGER NOT NULL, offsets BLOB, data BLOB NOT NULL);
CREATE TABLE frontier_names (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE frontiers (
    id INTEGER PRIMARY KEY, appended_us INTEGER NOT NULL, body BLOB NOT NULL);
"""

_CONSUMER_TABLES = """
CREATE TABLE positions (
    topic TEXT NOT NULL, number INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, number));
CREATE TABLE floor (one INTEGER PRIMARY KEY CHECK (one = 1), floor_us INTEGER NOT NULL);
"""

_LETTER_TABLES = """
CREATE TABLE letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT, appended_us INTEGER NOT NULL, connector TEXT NOT NULL,
    place TEXT NOT NULL, error TEXT NOT NULL, key BLOB, value BLOB);
"""


class Layout:
    """Paths below `<log.path>/log`. Names become file names by percent-encoding."""

    def __init__(self, root: Path) -> None:
        self.root = root / "log"
        self.consumers = self.root / "consumers"
        self.letters = self.root / "dead-letters.db"
        self.compaction_lock = self.root / "compaction.lock"

    def producer(self, name: str) -> Path:
        return self.root / f"{quote(name, safe='')}.db"

    def producers(self) -> list[Path]:
        """The files of all producers that ever were, sorted."""
        return sorted(p for p in self.root.glob("*.db") if p != self.letters)

    def consumer(self, name: str) -> Path:
        return self.consumers / f"{quote(name, safe='')}.db"

    def consumer_names(self) -> list[str]:
        return sorted(unquote(p.stem) for p in self.consumers.glob("*.db"))

    def make(self) -> None:
        """Create the directories. Raises LogError, also where SQLite could not lock."""
        refuse_network_file_system(self.root)
        try:
            self.consumers.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogError(
                f"cannot create the log directory: {error.strerror}",
                where=str(self.root),
                hint="make it writable, or set log.path to a directory on a local disk",
            ) from error


def refuse_network_file_system(path: Path, mounts: Path = Path("/proc/mounts")) -> None:
    """Raise LogError when `path` is on a network file system: its locks cannot be trusted."""
    kind = _file_system(path, mounts)
    if kind in _NETWORK_FILE_SYSTEMS:
        raise LogError(
            f"the log directory is on a network file system ({kind})",
            where=str(path),
            hint="set log.path to a local disk, or use log.type: kafka",
        )


def _file_system(path: Path, mounts: Path) -> str:
    """The type of the file system that holds `path`; empty where the system does not say."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return ""
    resolved, best, kind = path.resolve(), -1, ""
    for fields in (line.split(" ") for line in lines):
        at = Path(fields[1].replace("\\040", " "))
        if resolved.is_relative_to(at) and len(at.parts) >= best:
            best, kind = len(at.parts), fields[2]
    return kind


def open_producer_file(path: Path) -> sqlite3.Connection:
    """Open for writing, creating tables the first time. The caller checkpoints the WAL."""
    connection = _open_writable(path, _PRODUCER_TABLES)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def open_consumer_file(path: Path) -> sqlite3.Connection:
    return _open_writable(path, _CONSUMER_TABLES)


def open_letters_file(path: Path) -> sqlite3.Connection:
    return _open_writable(path, _LETTER_TABLES)


def open_readonly(path: Path) -> sqlite3.Connection | None:
    """A connection that never writes; None while its writer has not made the tables."""
    with sqlite_errors(path):
        if not path.exists():
            return None
        connection = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_MS / 1000,
        )
        try:
            version = _checked_version(connection, path)
        except BaseException:
            connection.close()
            raise
        if version == 0:
            connection.close()
            return None
        return connection


def _open_writable(path: Path, tables: str) -> sqlite3.Connection:
    with sqlite_errors(path):
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000
        )
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if _checked_version(connection, path) == 0:
                _create(connection, tables)
        except BaseException:
            connection.close()
            raise
        return connection


def _create(connection: sqlite3.Connection, tables: str) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in filter(str.strip, tables.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _checked_version(connection: sqlite3.Connection, path: Path) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, FORMAT_VERSION):
        raise LogError(
            f"written in format {version}, this program reads format {FORMAT_VERSION}",
            where=str(path),
            hint="use the version of cdc-views that wrote it",
        )
    return int(version)


@contextmanager
def sqlite_errors(path: Path, place: str = "") -> Iterator[None]:
    """SQLite's errors as ours: LogDamaged for files that do not fit, else LogError."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path, place) from error


def translated(error: sqlite3.Error, path: Path, place: str = "") -> LogError:
    """Our error for SQLite's, saying what to do."""
    where = f"{place} ({path})" if place else str(path)
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LogDamaged(
            f"the log file is damaged: {error}",
            where=where,
            hint="restore the file from a backup, or `cdc remove` its connector and capture again",
        )
    return LogError(f"the log cannot be used: {error}", where=where, hint=_HINTS.get(code, ""))


_FREE_SPACE = "free space on the disk (or raise its quota), then start again; nothing was lost"
_HINTS = {
    sqlite3.SQLITE_FULL: _FREE_SPACE,
    sqlite3.SQLITE_IOERR: "look at the disk's space, quota and health, then start again",
    sqlite3.SQLITE_READONLY: "make the log directory and its files writable for this user",
    sqlite3.SQLITE_CANTOPEN: "make the log directory and its files readable and writable",
    sqlite3.SQLITE_BUSY: "another process holds the file: stop backups or tools that lock it",
}
