"""Take what the program inside a box tells of an activation: its processes', and sd_notify(3)'s.

Source for who may say what: sd_notify(3), and NotifyAccess= in systemd.service(5).
"""

from __future__ import annotations

import asyncio
import math
import re
from typing import TYPE_CHECKING, Any

from kmem_harness.services.engine.processes import Processes, now

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.services.engine.processes import Owner
    from kmem_harness.services.unitfile.unit import Unit

__all__ = ["Notified", "notify_access"]

_WHOLE = re.compile(r"[0-9]{1,18}")


def notify_access(unit: Unit) -> str:
    """Say who may send sd_notify(3) messages, with the default of the type."""
    service = unit.service
    assert service is not None  # noqa: S101 - only services are activated
    if service.notify_access is not None:
        return service.notify_access
    notifies = service.effective_type in ("notify", "notify-reload")
    return "main" if notifies or service.watchdog < math.inf else "none"


class Notified(Processes):
    """The processes of one activation, and what they say of themselves."""

    def __init__(self, owner: Owner, notify: str) -> None:
        """Prepare; *notify* is the path of its sd_notify socket, or empty."""
        super().__init__(owner, notify)
        self._ready = False
        self._watchdog_due = math.inf
        self._watchdog_fed = False

    def event(self, event: dict[str, Any]) -> None:
        """Take one event of the box."""
        if event["event"] == "notify":
            self._notified(event["pid"], event["text"])
        self._take(event)

    def _notified(self, sender: int, text: str) -> None:
        """Take an sd_notify(3) message, if NotifyAccess= lets its sender say something."""
        access = notify_access(self._owner.unit)
        known = sender in self._processes or not self._processes
        is_main = sender == self.main_pid or (self._main is None and known)
        if access != "all" and not is_main and not (access == "exec" and known):
            self._owner.say(f"sd_notify of process {sender} ignored: NotifyAccess={access}")
            return
        for line in text.split("\n"):
            name, _, value = line.partition("=")
            if name in _NOTIFICATIONS:
                _NOTIFICATIONS[name](self, value)

    def _notify_ready(self, value: str) -> None:
        self._ready = value == "1"

    def _notify_reloading(self, value: str) -> None:
        self._ready = self._ready and value != "1"

    def _notify_stopping(self, value: str) -> None:
        if value == "1":
            self._owner.status_text = self._owner.status_text or "stopping"

    def _notify_status(self, value: str) -> None:
        self._owner.status_text = value

    def _notify_main_pid(self, value: str) -> None:
        if _WHOLE.fullmatch(value) and int(value) > 0:
            task = asyncio.ensure_future(self._adopt(int(value)))
            # A box that is lost says so itself.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _notify_watchdog(self, value: str) -> None:
        self._watchdog_fed = True
        if value == "trigger":
            self._watchdog_due = now()
        elif self._watchdog < math.inf:
            self._watchdog_due = now() + self._watchdog

    def _notify_watchdog_usec(self, value: str) -> None:
        if _WHOLE.fullmatch(value):
            self._watchdog = int(value) / 1e6 or math.inf
            self._notify_watchdog("1")

    def _notify_extend(self, value: str) -> None:
        if _WHOLE.fullmatch(value):
            self._deadline = max(self._deadline, now() + int(value) / 1e6)


_NOTIFICATIONS: dict[str, Callable[[Notified, str], None]] = {
    "READY": Notified._notify_ready,  # noqa: SLF001 - a table of this class's own methods
    "RELOADING": Notified._notify_reloading,  # noqa: SLF001
    "STOPPING": Notified._notify_stopping,  # noqa: SLF001
    "STATUS": Notified._notify_status,  # noqa: SLF001
    "MAINPID": Notified._notify_main_pid,  # noqa: SLF001
    "WATCHDOG": Notified._notify_watchdog,  # noqa: SLF001
    "WATCHDOG_USEC": Notified._notify_watchdog_usec,  # noqa: SLF001
    "EXTEND_TIMEOUT_USEC": Notified._notify_extend,  # noqa: SLF001
}
