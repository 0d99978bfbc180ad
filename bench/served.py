"""A server's processes, as a benchmark sees them: their CPU time and memory."""

import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Served:
    """A running server with all the processes that it has started."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.port = port
        self.address = f"127.0.0.1:{port}"

    @property
    def pids(self) -> list[int]:
        """The process and its descendants."""
        found = [self.process.pid]
        for pid in found:
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                found += map(int, children.read_text().split())
        return found

    def cpu_seconds(self) -> float:
        """Used so far."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self.pids]
        return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS

    def memory_mib(self) -> float:
        """What all of them hold; a page that several share counts once, whoever else has it."""
        own, files = 0, dict[tuple[str, str], int]()
        for pid in self.pids:
            rollup, *maps = _sizes(Path(f"/proc/{pid}/smaps_rollup")) + _sizes(Path(f"/proc/{pid}/smaps"))
            own += rollup.kib["Pss_Anon"] + rollup.kib["Pss_Shmem"]
            for one in maps:
                if one.path.startswith("/") and not one.path.startswith("/memfd:"):
                    kept = one.kib["Rss"] - one.kib["Anonymous"]
                    files[one.path, one.offset] = max(kept, files.get((one.path, one.offset), 0))
        return (own + sum(files.values())) / 1024


@dataclass(frozen=True, slots=True)
class _Mapping:
    offset: str
    path: str
    kib: dict[str, int] = field(default_factory=dict[str, int])


def _sizes(file: Path) -> list[_Mapping]:
    """The mappings in a file of `/proc`, with what each holds."""
    found: list[_Mapping] = []
    for line in file.read_text().splitlines():
        name, *values = line.split()
        if not name.endswith(":"):
            found.append(_Mapping(values[1], " ".join(values[4:])))
        elif values[-1] == "kB":
            found[-1].kib[name[:-1]] = int(values[0])
    return found
