"""Judge how processes ended, and whether a service is started again. Pure: takes facts, gives words."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kmem_harness.services.engine.states import Result

if TYPE_CHECKING:
    from kmem_harness.services.unitfile.settings import ServiceSettings

__all__ = ["Ending", "StartLimit", "judge", "restart_delay", "shall_restart"]

#: What ends a daemon and is no failure, beside exit status 0. Source: systemd.service(5).
_CLEAN_SIGNALS = frozenset((signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE))
#: Source: the table under Restart= in systemd.service(5).
_RESTARTED = {
    "no": frozenset[Result](),
    "always": frozenset(Result) - {Result.EXEC_CONDITION},
    "on-success": frozenset((Result.SUCCESS,)),
    "on-failure": frozenset(Result) - {Result.SUCCESS, Result.EXEC_CONDITION},
    "on-abnormal": frozenset(Result)
    - {Result.SUCCESS, Result.EXEC_CONDITION, Result.EXIT_CODE, Result.RESOURCES},
    "on-abort": frozenset((Result.SIGNAL, Result.CORE_DUMP)),
    "on-watchdog": frozenset((Result.WATCHDOG,)),
}


@dataclass(frozen=True)
class Ending:
    """How a process ended: by an exit code, or by a signal."""

    code: int | None = None
    signal: int | None = None
    core: bool = False


def judge(ending: Ending, settings: ServiceSettings) -> Result:
    """Say whether a process of a service ended well. Source: is_clean_exit of systemd 252."""
    good = settings.success_exit_status
    if ending.signal is None:
        clean = ending.code == 0 or any(ending.code in one.codes for one in good)
        return Result.SUCCESS if clean else Result.EXIT_CODE
    daemon = settings.effective_type != "oneshot"
    if daemon and ending.signal in _CLEAN_SIGNALS:
        return Result.SUCCESS
    if any(ending.signal in one.signals for one in good):
        return Result.SUCCESS
    return Result.CORE_DUMP if ending.core else Result.SIGNAL


def shall_restart(settings: ServiceSettings, result: Result, main: Ending | None) -> bool:
    """Say whether ``Restart=`` and its exceptions ask for another start."""
    if main is not None:
        for statuses, answer in (
            (settings.restart_prevent, False),
            (settings.restart_force, True),
        ):
            if any(main.code in one.codes or main.signal in one.signals for one in statuses):
                return answer
    return result in _RESTARTED[settings.restart]


def restart_delay(settings: ServiceSettings, nr_restarts: int) -> float:
    """Give RestartSec=, growing to RestartMaxDelaySec= in RestartSteps= steps. Units: seconds."""
    first, most, steps = settings.restart_sec, settings.restart_max_delay, settings.restart_steps
    if steps <= 0 or most == math.inf or first <= 0:
        return first
    return float(first * (most / first) ** (min(nr_restarts, steps) / steps))


@dataclass
class StartLimit:
    """How often a unit may be started. Source: ratelimit.c: a window opens with a start."""

    interval: float
    burst: int
    _began: float = field(default=-math.inf, init=False)
    _count: int = field(default=0, init=False)

    def admits(self, now: float) -> bool:
        """Count one start at *now*; say whether it is still within the limit."""
        if self.interval <= 0 or self.burst <= 0:
            return True
        if now - self._began >= self.interval:
            self._began, self._count = now, 0
        if self._count >= self.burst:
            return False
        self._count += 1
        return True
