"""How Java servers run in tests: most of what they use there is work of the start, the compiler's
above all."""

from __future__ import annotations

QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""No optimising compiler, no threads for garbage: a start takes half the work or less. A server
that runs for long is slower with it, so benchmarks do without."""
