"""Take what the processes of a service say of themselves: sd_notify(3).

Source for who may say what: sd_notify(3), and NotifyAccess= in systemd.service(5).
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import TYPE_CHECKING

from kmem_harness.services.engine.clock import now

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.services.engine.clock import Clock
    from kmem_harness.services.engine.processes import Owner, Processes
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Notifications", "notify_access"]

_WHOLE = re.compile(r"[0-9]{1,18}")


def notify_access(unit: Unit) -> str:
    """Say who may send sd_notify(3) messages, with the default of the type."""
    service = unit.service
    assert service is not None  # noqa: S101 - only services are activated
    if service.notify_access is not None:
        return service.notify_access
    notifies = service.effective_type in ("notify", "notify-reload")
    return "main" if notifies or service.watchdog < math.inf else "none"


class Notifications:
    """What the processes of one activation have said, and the watchdog they feed by it."""

    def __init__(self, owner: Owner, processes: Processes, clock: Clock) -> None:
        """Hear nothing yet."""
        assert owner.unit.service is not None  # noqa: S101 - as above
        self.ready = False
        #: ``WATCHDOG_USEC=``, by default ``WatchdogSec=``. Units: seconds.
        self.watchdog = owner.unit.service.watchdog
        self.watchdog_due = math.inf
        self.watchdog_fed = False
        self._owner = owner
        self._processes = processes
        self._clock = clock

    def take(self, sender: int, text: str) -> None:
        """Take a message, if NotifyAccess= lets its sender say something."""
        access = notify_access(self._owner.unit)
        known = sender in self._processes.known or not self._processes.known
        is_main = sender == self._processes.main_pid or (self._processes.main is None and known)
        if access != "all" and not is_main and not (access == "exec" and known):
            self._owner.say(f"sd_notify of process {sender} ignored: NotifyAccess={access}")
            return
        for line in text.split("\n"):
            name, _, value = line.partition("=")
            if name in _MESSAGES:
                _MESSAGES[name](self, value)
        self._clock.ring()

    def start_watchdog(self) -> None:
        """Count from now."""
        self.watchdog_due = now() + self.watchdog

    def _ready(self, value: str) -> None:
        self.ready = value == "1"

    def _reloading(self, value: str) -> None:
        self.ready = self.ready and value != "1"

    def _stopping(self, value: str) -> None:
        if value == "1":
            self._owner.status_text = self._owner.status_text or "stopping"

    def _status(self, value: str) -> None:
        self._owner.status_text = value

    def _main_pid(self, value: str) -> None:
        if _WHOLE.fullmatch(value) and int(value) > 0:
            task = asyncio.ensure_future(self._processes.adopt(int(value)))
            # A box that is lost says so itself.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _watchdog(self, value: str) -> None:
        self.watchdog_fed = True
        if value == "trigger":
            self.watchdog_due = now()
        elif self.watchdog < math.inf:
            self.start_watchdog()

    def _watchdog_usec(self, value: str) -> None:
        if _WHOLE.fullmatch(value):
            self.watchdog = int(value) / 1e6 or math.inf
            self._watchdog("1")

    def _extend(self, value: str) -> None:
        if _WHOLE.fullmatch(value):
            self._clock.extend(int(value) / 1e6)


_MESSAGES: dict[str, Callable[[Notifications, str], None]] = {
    "READY": Notifications._ready,  # noqa: SLF001 - a table of this class's own methods
    "RELOADING": Notifications._reloading,  # noqa: SLF001
    "STOPPING": Notifications._stopping,  # noqa: SLF001
    "STATUS": Notifications._status,  # noqa: SLF001
    "MAINPID": Notifications._main_pid,  # noqa: SLF001
    "WATCHDOG": Notifications._watchdog,  # noqa: SLF001
    "WATCHDOG_USEC": Notifications._watchdog_usec,  # noqa: SLF001
    "EXTEND_TIMEOUT_USEC": Notifications._extend,  # noqa: SLF001
}
