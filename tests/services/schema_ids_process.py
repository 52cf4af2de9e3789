"""A process that registers schemas: python schema_ids_process.py CONFIG, where CONFIG is the JSON
of {"registry", "bootstrap", "prefix", "subject", "schemas"}. It prints a line once it is ready,
waits for a line, and prints the ids as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cdc.config import LogConfig
from cdc.log.kafka_client import Broker
from cdc.log.open_ids import open_ids
from cdc.log.schema_topic import SchemaTopic


def main() -> None:
    given = json.loads(sys.argv[1])
    config = LogConfig(
        "kafka", Path(), bootstrap_servers=given["bootstrap"], topic_prefix=given["prefix"]
    )
    topic = SchemaTopic(Broker(config))
    ids = open_ids(given["registry"], {}, topic)
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([ids.register(given["subject"], schema) for schema in given["schemas"]]))
    ids.close()
    topic.close()


if __name__ == "__main__":
    main()
