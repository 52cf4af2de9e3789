"""The seam to wherever Avro schemas have their ids: a schema registry, or a topic of ours.

Obligations of both implementations, proved by tests/contract/test_schema_ids.py:

1.  `register` gives the same id for the same schema of a subject, also to two processes that ask
    at once, and for ever: ids stand in records.
2.  A schema that its subject's compatibility does not allow is refused before anything is
    registered, and the error shows where the two schemas differ. A topic of ours allows every one.
3.  `schema` answers for every id that `register` ever gave, whoever asked for it.
"""

from __future__ import annotations

from typing import Protocol


class SchemaIds(Protocol):
    def register(self, subject: str, schema: str) -> int:
        """The id of an Avro schema (its JSON) under `<topic>-key` or `<topic>-value`, registered
        when it is not yet. Raises LogError: refused, incompatible, or the registry is away."""
        ...

    def schema(self, schema_id: int) -> str:
        """The JSON of the schema with this id. Raises LogError when there is none."""
        ...

    def close(self) -> None: ...
