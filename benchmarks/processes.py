"""What Linux says of a worker's processes: who they are, their CPU time, their memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from benchmarks.measure import BenchmarkError


class Processes(NamedTuple):
    """The processes of one worker."""

    supervisor: int
    nursery: int
    children: tuple[int, ...]

    @classmethod
    def of(cls, supervisor: int) -> Processes:
        """Find the nursery and the children of a supervisor."""
        if not Path("/proc/self/smaps_rollup").exists():
            raise BenchmarkError("This needs Linux: CPU time and memory are read from /proc.")
        (nursery,) = _children_of(supervisor)
        return cls(supervisor, nursery, _children_of(nursery))

    def cpu_seconds(self) -> float:
        """Return the CPU time that all of them have used."""
        return sum(_cpu_seconds(pid) for pid in (self.supervisor, self.nursery, *self.children))


def _children_of(pid: int) -> tuple[int, ...]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    texts = [(task / "children").read_text() for task in tasks]
    return tuple(int(child) for text in texts for child in text.split())


def _cpu_seconds(pid: int) -> float:
    # Behind the name, which may hold spaces: user and system time are the 14th and 15th field.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def proportional_megabytes(pid: int) -> float:
    """Return a process's PSS: its own memory, and its share of what it shares."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise BenchmarkError(f"No Pss in /proc/{pid}/smaps_rollup.")
