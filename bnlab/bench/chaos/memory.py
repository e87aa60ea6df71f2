"""A control group of Linux, of either version, which limits the memory of its processes."""

import secrets
from contextlib import suppress
from pathlib import Path

__all__ = ["MemoryGroup", "NoGroupError"]

_ROOT = Path("/sys/fs/cgroup")
_MIB = 1 << 20


class NoGroupError(RuntimeError):
    """No group can be made; the message says why."""


class MemoryGroup:
    """Limit the memory of the processes that join.

    Raises:
        NoGroupError: no group can be made here; usually only root can make one.
    """

    def __init__(self) -> None:
        parent, self._is_v2 = _own_group()
        self._path = parent / f"bnlab-{secrets.token_hex(4)}"
        try:
            self._path.mkdir()
            if not self._limit.exists():
                raise FileNotFoundError(f"{self._limit.name} is not delegated")
        except OSError as error:
            with suppress(OSError):
                self._path.rmdir()
            raise NoGroupError(f"no control group for memory can be made: {error}") from error

    @property
    def _limit(self) -> Path:
        return self._path / ("memory.max" if self._is_v2 else "memory.limit_in_bytes")

    @property
    def members(self) -> Path:
        """Return the file to which a process writes 0 to join."""
        return self._path / "cgroup.procs"

    @property
    def used(self) -> int:
        """Return the used memory in bytes."""
        return int((self._path / ("memory.current" if self._is_v2 else "memory.usage_in_bytes")).read_text())

    def limit(self, wanted: int) -> int:
        """Limit the memory to `wanted` bytes, or the nearest limit that the kernel accepts, and kill what exceeds it.

        Returns:
            the limit in bytes.
        """
        used = self.used
        for limit in (wanted, int(0.9 * used), used, int(1.1 * used)):
            limit = max(limit, 64 * _MIB)
            with suppress(OSError):  # version 1 refuses a limit below the memory that cannot be freed
                self._limit.write_text(str(limit))
                break
        return limit

    def lift(self) -> None:
        self._limit.write_text("max" if self._is_v2 else "-1")

    def close(self) -> None:
        with suppress(OSError):  # a process may still be in it
            self._path.rmdir()


def _own_group() -> tuple[Path, bool]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as error:
        raise NoGroupError(f"there are no control groups: {error}") from error
    groups = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    for controllers, path in groups.items():
        if "memory" in controllers.split(","):
            return _ROOT / controllers / path.lstrip("/"), False
    return _ROOT / groups.get("", "").lstrip("/"), True
