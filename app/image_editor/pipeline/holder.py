"""Names of processes that hold claims, by which another process of the same host can tell whether one still runs."""

import os
import socket
from functools import lru_cache
from pathlib import Path


def me() -> str:
    """The name of this process: host, boot, PID namespace, process id and start time. No other process ever has it."""
    return _name(os.getpid())  # a pool process is a fork, so the name is not the parent's


@lru_cache(maxsize=1)
def _name(pid: int) -> str:
    _, started = _stat(pid)
    return f"{_place()}:{pid}:{started}"


def gone(name: str) -> bool:
    """True if the process certainly does not run any more. False if it runs, or if this host cannot tell."""
    if not name.startswith(f"{_place()}:"):
        return False
    pid, started = name.split(":")[-2:]
    try:
        os.kill(int(pid), 0)
        state, since = _stat(int(pid))
    except (ProcessLookupError, FileNotFoundError):
        return True
    except PermissionError:  # it runs, as another user
        return False
    return since != started or state == "Z"  # a zombie has ended, and its parent has not noticed yet


def _place() -> str:
    """Where a process id means one process: a PID namespace of one boot. The host's name is for people."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{socket.gethostname()}:{boot}:{os.stat('/proc/self/ns/pid').st_ino}"


def _stat(pid: int) -> tuple[str, str]:
    """State and start time (in clock ticks after the boot) of a process. See proc_pid_stat(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], fields[19]
