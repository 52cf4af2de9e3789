"""Topics in Debezium's format as a source: what other programs wrote, read like a database.

source         the Source: what the capture agent runs; polled, fenced: the two kinds of it
poll           records of many partitions, from given offsets on
described      what is known of a topic's records: its table, and how they are decoded
columns        our column of a Connect schema; evolution: what a newer schema makes of a table
sql_types      our column of a type as Postgres spells it
decode         records to change batches
brokers        what is asked of a broker: topics, offsets, identities
check          findings for `cdc check`
newest         a topic's rows, read anew: what `cdc verify` compares with
"""

from __future__ import annotations

FENCED = "fenced"
"""In a frontier's notes (Frontier.resume): its cuts are whole transactions of whoever wrote the
topics."""
