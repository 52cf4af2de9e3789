"""What every benchmark needs: medians, the disk's own speed, a process's memory."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the sorted values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def fdatasync_p50_ms(folder: Path, times: int = 100) -> float:
    """Median of writing and syncing 4 KiB in `folder`: the floor under every durable append."""
    path = folder / "fdatasync.probe"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(times):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - began) * 1e3)
    path.unlink()
    return statistics.median(taken)


def peak_rss_mib(pid: int) -> float:
    """The largest resident set that the process has had, in MiB (0 when it is gone)."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    except FileNotFoundError:
        pass
    return 0.0


def reset_peak_rss(pid: int) -> None:
    """Let peak_rss_mib count from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def cpu_s(pid: int) -> float:
    """The seconds of processor that a process has used, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """One measured figure: all runs, and what it is held against."""

    name: str
    unit: str
    runs: tuple[float, ...]
    target: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    def __str__(self) -> str:
        runs = ", ".join(f"{run:,.4g}" if run < 1000 else f"{run:,.0f}" for run in self.runs)
        median = f"{self.median:,.4g}" if self.median < 1000 else f"{self.median:,.0f}"
        target = f"   target {self.target}" if self.target else ""
        return f"{self.name:<52} {median:>12} {self.unit:<10} runs: {runs}{target}"


def report(figures: Iterable[Figure]) -> None:
    for figure in figures:
        print(figure, flush=True)
