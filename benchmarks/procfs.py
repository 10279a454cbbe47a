"""What the kernel knows about processes and cores (Linux's /proc): CPU time, memory, children."""

from __future__ import annotations

import os
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """User and system time so far of a process and its living children."""
    return sum(_cpu_ticks(member) for member in _tree(pid)) * _TICK


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its living children; shared pages count in each."""
    return sum(int(_read(member, "statm").split()[1]) for member in _tree(pid)) * _PAGE


def busy_seconds(cores: set[int]) -> float:
    """CPU seconds since boot that anyone used on these cores."""
    wanted = {f"cpu{core}" for core in cores}
    rows = (line.split() for line in Path("/proc/stat").read_text().splitlines())
    return sum(_busy_ticks([int(field) for field in row[1:]]) for row in rows if row[0] in wanted) * _TICK


def cpu_model() -> str:
    """The processor's name as the kernel gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), os.uname().machine)


def _busy_ticks(fields: list[int]) -> int:
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return user + nice + system + irq + softirq


def _cpu_ticks(pid: int) -> int:
    fields = _read(pid, "stat").rpartition(")")[2].split()  # the program's name, in brackets, may hold spaces
    user, system = fields[11:13]
    return int(user) + int(system)


def _tree(pid: int) -> list[int]:
    members = [pid]
    for member in members:
        for thread in os.listdir(f"/proc/{member}/task"):
            members += map(int, _read(member, f"task/{thread}/children").split())
    return members


def _read(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()
