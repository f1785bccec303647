"""Refer to memcgs in a running controller: limits in our own sizes, counters as they are now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.limit_text import PAGE
from kmem_harness.core.sizes import UNLIMITED, parse_size

if TYPE_CHECKING:
    from kmem_harness.controller.owner.client import Connection

__all__ = ["TRACK_ONLY", "Counter", "MemcgHandle", "limit_text", "make_memcg", "set_limits"]

#: The largest limit all profiles take as one: it makes a memcg account without binding it (K24).
TRACK_ONLY = "9223372036854771712"


class Counter:
    """One counter of a memcg, read from the controller at each look. Units: bytes."""

    def __init__(self, memcg: MemcgHandle, name: str) -> None:
        """Look at counter *name* ("kmem" or "memory") of *memcg*."""
        self._memcg = memcg
        self._name = name

    @property
    def limit(self) -> int:
        """The limit, -1 for none. Setting it takes a size: ``"8M"``, ``8388608``, ``"max"``."""
        return self._read("limit")

    @limit.setter
    def limit(self, size: str | int) -> None:
        self._memcg.write(self._file("limit_in_bytes"), limit_text(size))

    @property
    def usage(self) -> int:
        """What is charged now, after a census."""
        return self._read("usage")

    @property
    def max_usage(self) -> int:
        """The highest usage so far."""
        return self._read("max_usage")

    @property
    def failcnt(self) -> int:
        """How often this counter met its limit."""
        return self._read("failcnt")

    def _read(self, field: str) -> int:
        return int(self._memcg.counters()[self._name][field])

    def _file(self, suffix: str) -> str:
        prefix = "memory.kmem." if self._name == "kmem" else "memory."
        return prefix + suffix


class MemcgHandle:
    """A memcg in the controller, by path."""

    def __init__(self, controller: Connection, path: str) -> None:
        """Refer to *path*, which exists."""
        self.path = path
        self._controller = controller
        self._last: dict[str, Any] | None = None
        self.kmem = Counter(self, "kmem")
        self.memory = Counter(self, "memory")

    def child(
        self, name: str, kmem_limit: str | int | None = None, memory_limit: str | int | None = None
    ) -> MemcgHandle:
        """Make (or find) the memcg *name* below this one."""
        return make_memcg(
            self._controller, f"{self.path.rstrip('/')}/{name}", kmem_limit, memory_limit
        )

    def children(self) -> list[MemcgHandle]:
        """Give the memcgs right below this one."""
        names = self._controller.children(self.path)
        return [MemcgHandle(self._controller, f"{self.path.rstrip('/')}/{name}") for name in names]

    def read(self, file: str) -> str:
        """Read a control file, such as ``memory.kmem.usage_in_bytes``. Raises: OSError."""
        return self._controller.read(self.path, file)

    def write(self, file: str, value: str) -> None:
        """Write a control file. Raises: OSError with the errno the kernel would give."""
        self._controller.write(self.path, file, value)

    def remove(self) -> None:
        """Remove it. Its last counters can still be read from this handle. Raises: OSError."""
        last = self.counters()
        self._controller.remove(self.path)
        self._last = last
        if self._controller.when_removed is not None:
            self._controller.when_removed(self.path, last)

    def counters(self) -> dict[str, Any]:
        """Give both counters in the shape of the report's ``memcg``."""
        return self._last or self._controller.counters(self.path)


def make_memcg(
    controller: Connection,
    path: str,
    kmem_limit: str | int | None,
    memory_limit: str | int | None,
) -> MemcgHandle:
    """Make (or find) a memcg and set its limits. Raises: ConfigurationError, OSError."""
    _check(kmem_limit, memory_limit)  # before anything is made
    controller.make(path, parents=True)
    handle = MemcgHandle(controller, path)
    set_limits(handle, kmem_limit, memory_limit)
    return handle


def set_limits(
    memcg: MemcgHandle, kmem_limit: str | int | None, memory_limit: str | int | None
) -> None:
    """Set what is not ``None``. Raises: ConfigurationError, OSError from the control file."""
    _check(kmem_limit, memory_limit)
    if kmem_limit is not None:
        memcg.kmem.limit = kmem_limit
    if memory_limit is not None:
        memcg.memory.limit = memory_limit


def _check(*limits: str | int | None) -> None:
    for limit in limits:
        limit_text(limit)


def limit_text(size: str | int | None) -> str:
    """Turn a limit of ours into what a control file takes.

    Raises: ConfigurationError for what is no size, and for a limit nothing can run under.
    """
    if size is None:
        return ""
    nbytes = size if isinstance(size, int) else parse_size(str(size))
    if nbytes == UNLIMITED:
        return "-1"
    if nbytes < PAGE:
        message = (
            f"limit {size!r} is below one page ({PAGE} bytes): every allocation would be refused; "
            "give a larger limit, 'max' for none, or observe mode to refuse nothing"
        )
        raise ConfigurationError(message)
    return str(nbytes)
