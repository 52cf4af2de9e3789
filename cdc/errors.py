"""Every error the platform raises on purpose.

    CdcError                    what happened, where, hint (what to do next)
    ├── ConfigError             the YAML or the command line; exit status 2
    │   └── ConfigProblems      several of them, found in one reading
    ├── CheckFailed             a check or a comparison did not hold; exit status 1
    ├── SourceError             the database refuses, or cannot continue where we stopped
    │   ├── SourceUnavailable   it may answer later: connection lost or refused, starting; retried
    │   ├── SlotError           slot missing, invalidated, ahead of the log, of another database
    │   └── SchemaChanged       a schema change that cannot be followed without help
    │       └── SnapshotNeeded  … but by a new snapshot, which the agent takes itself
    ├── LogError                the log refuses, or its files are damaged
    │   ├── Fenced              another process took over this producer or consumer
    │   ├── LogRefused          it will not do it later either: another form, an incompatible schema
    │   └── LogDamaged          a checksum, an offset or a file does not fit
    ├── BadData                 one value or message that cannot be carried
    ├── ViewError               a view cannot be planned or maintained
    │   └── Unsupported         SQL that is refused, with its place in the text
    └── SinkError               the store refuses
        └── StoreUnavailable    it may accept later: down, locked, out of space; retried

`where` is file:line:column, topic/partition/offset, or a source position.
Messages never contain secrets: URLs pass through `mask_url` first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence


class CdcError(Exception):
    """What happened, where it happened, and what to do next."""

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}" + (f"\n  -> {self.hint}" if self.hint else "")


class ConfigError(CdcError):
    """connectors.yaml or the command line is wrong."""


class ConfigProblems(ConfigError):
    """Several mistakes of one file, reported together."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__(f"{len(self.errors)} mistakes in the configuration")

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


class CheckFailed(CdcError):
    """A check or comparison did not hold."""


class SourceError(CdcError):
    """The source database refuses, or history does not continue where we stopped."""


class SourceUnavailable(SourceError):
    """The database does not answer, or not now: the same request may succeed later."""


class SlotError(SourceError):
    """The replication slot cannot be used without losing changes."""


class SchemaChanged(SourceError):
    """A schema change that cannot be followed without the operator."""


class SnapshotNeeded(SchemaChanged):
    """A schema change after which the source's tables must be read again."""


class LogError(CdcError):
    """The log refuses an operation."""


class Fenced(LogError):
    """A newer process owns this producer or consumer; this one must stop."""


class LogRefused(LogError):
    """The log will not do this however often it is asked: somebody has to change something."""


class LogDamaged(LogError):
    """Stored bytes do not match their checksum or their neighbours."""


class BadData(CdcError):
    """A value that cannot be carried without changing it."""


class ViewError(CdcError):
    """A view cannot be planned or kept up to date."""


class Unsupported(ViewError):
    """SQL that is refused rather than answered wrongly."""


class UnknownTable(ViewError):
    """SQL names a table that nobody has captured, yet."""


class SinkError(CdcError):
    """The downstream store refuses."""


class StoreUnavailable(SinkError):
    """The store does not answer, or is locked: the same request may succeed later."""


# Up to the last @ before the host: a password may have one that is not percent-encoded.
_PASSWORD = re.compile(r"(?<=://)([^:/@\s]*):([^@\s]*(?:@[^@\s/?#,]*)*)@")
_PASSWORD_PARAMETER = re.compile(r"(?i)(password|passwd|secret|token|api_key)=([^&\s'\"]+)")


def mask_url(text: str) -> str:
    """`text` with the password of every URL in it replaced by `***`."""
    return _PASSWORD_PARAMETER.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", text))
