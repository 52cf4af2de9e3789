"""`make bench`: every benchmark, one after the other (they need both cores to themselves)."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = (
    *("decode", "decode_mysql", "json", "log", "capture", "kafka", "mysql"),
    *("views", "numeric", "latency", "sinks", "elasticsearch", "redis"),
)


def main() -> None:
    for name in sys.argv[1:] or BENCHMARKS:
        print(f"\n== bench.{name}", flush=True)
        subprocess.run([sys.executable, "-m", f"bench.{name}"], check=True)


if __name__ == "__main__":
    main()
