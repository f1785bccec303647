"""Name what a unit can be, and how it can have ended: systemd's own words."""

from __future__ import annotations

from enum import Enum

__all__ = ["ACTIVE", "Result", "State"]


class State(Enum):
    """A unit's sub-state."""

    DEAD = "dead"
    CONDITION = "condition"
    START_PRE = "start-pre"
    START = "start"
    START_POST = "start-post"
    RUNNING = "running"
    EXITED = "exited"
    #: Of slices and targets.
    ACTIVE = "active"
    RELOAD = "reload"
    STOP = "stop"
    STOP_WATCHDOG = "stop-watchdog"
    STOP_SIGTERM = "stop-sigterm"
    STOP_SIGKILL = "stop-sigkill"
    STOP_POST = "stop-post"
    FINAL_SIGTERM = "final-sigterm"
    FINAL_SIGKILL = "final-sigkill"
    AUTO_RESTART = "auto-restart"
    FAILED = "failed"

    @property
    def active(self) -> str:
        """The active state, as ``systemctl`` shows it first."""
        return _ACTIVE_STATES.get(self, "deactivating")


ACTIVE = (State.RUNNING, State.EXITED, State.ACTIVE, State.RELOAD)

_ACTIVE_STATES = {
    **dict.fromkeys((State.RUNNING, State.EXITED, State.ACTIVE), "active"),
    **dict.fromkeys(
        (State.CONDITION, State.START_PRE, State.START, State.START_POST), "activating"
    ),
    State.AUTO_RESTART: "activating",
    State.RELOAD: "reloading",
    State.DEAD: "inactive",
    State.FAILED: "failed",
}


class Result(Enum):
    """How the last run of a service went."""

    SUCCESS = "success"
    RESOURCES = "resources"
    PROTOCOL = "protocol"
    TIMEOUT = "timeout"
    EXIT_CODE = "exit-code"
    SIGNAL = "signal"
    CORE_DUMP = "core-dump"
    WATCHDOG = "watchdog"
    START_LIMIT_HIT = "start-limit-hit"
    OOM_KILL = "oom-kill"
    EXEC_CONDITION = "exec-condition"
    ASSERT = "assert"
    DEPENDENCY = "dependency"
