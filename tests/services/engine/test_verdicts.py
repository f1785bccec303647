"""Restart= and its limits, against the table in systemd.service(5)."""

from __future__ import annotations

import math
import signal

import pytest

from kmem_harness.services.engine.states import Result
from kmem_harness.services.engine.verdicts import (
    Ending,
    StartLimit,
    judge,
    restart_delay,
    shall_restart,
)
from kmem_harness.services.unitfile.settings import ServiceSettings
from kmem_harness.services.unitfile.values import ExitStatuses

#: Rows and columns as the manual has them.
HOWS = {
    "clean exit code or signal": Result.SUCCESS,
    "unclean exit code": Result.EXIT_CODE,
    "unclean signal": Result.SIGNAL,
    "timeout": Result.TIMEOUT,
    "watchdog": Result.WATCHDOG,
}
TABLE = {
    "no": "",
    "always": "clean exit code or signal, unclean exit code, unclean signal, timeout, watchdog",
    "on-success": "clean exit code or signal",
    "on-failure": "unclean exit code, unclean signal, timeout, watchdog",
    "on-abnormal": "unclean signal, timeout, watchdog",
    "on-abort": "unclean signal",
    "on-watchdog": "watchdog",
}


@pytest.mark.parametrize("restart", TABLE)
@pytest.mark.parametrize("how", HOWS)
def test_service_when_it_ended_then_restart_is_as_the_manuals_table_has_it(restart, how):
    settings = ServiceSettings(restart=restart)
    assert shall_restart(settings, HOWS[how], None) == (how in TABLE[restart].split(", "))


def test_restart_when_an_exit_status_prevents_or_forces_it_then_that_counts_first():
    statuses = [ExitStatuses({3}, {9})]
    prevent = ServiceSettings(restart="always", restart_prevent=statuses)
    force = ServiceSettings(restart="no", restart_force=statuses)
    for ending in (Ending(code=3), Ending(signal=9)):
        assert not shall_restart(prevent, Result.EXIT_CODE, ending)
        assert shall_restart(force, Result.EXIT_CODE, ending)
    assert shall_restart(prevent, Result.EXIT_CODE, Ending(code=4))
    assert not shall_restart(force, Result.EXIT_CODE, Ending(code=4))


@pytest.mark.parametrize(
    ("ending", "daemon", "oneshot"),
    [
        (Ending(code=0), Result.SUCCESS, Result.SUCCESS),
        (Ending(code=1), Result.EXIT_CODE, Result.EXIT_CODE),
        (Ending(signal=signal.SIGTERM), Result.SUCCESS, Result.SIGNAL),
        (Ending(signal=signal.SIGPIPE), Result.SUCCESS, Result.SIGNAL),
        (Ending(signal=signal.SIGKILL), Result.SIGNAL, Result.SIGNAL),
        (Ending(signal=signal.SIGSEGV, core=True), Result.CORE_DUMP, Result.CORE_DUMP),
        (Ending(code=75), Result.SUCCESS, Result.SUCCESS),
        (Ending(signal=signal.SIGUSR1), Result.SUCCESS, Result.SUCCESS),
    ],
)
def test_process_when_judged_then_signals_that_ask_to_end_are_clean_for_daemons(
    ending, daemon, oneshot
):
    good = [ExitStatuses({75}, {signal.SIGUSR1})]
    assert judge(ending, ServiceSettings(type="simple", success_exit_status=good)) is daemon
    assert judge(ending, ServiceSettings(type="oneshot", success_exit_status=good)) is oneshot


def test_start_limit_when_starts_come_fast_then_the_burst_is_all_there_is():
    limit = StartLimit(interval=10, burst=3)
    assert [limit.admits(now) for now in (0, 1, 2, 3, 9.9)] == [True, True, True, False, False]
    assert limit.admits(10)


@pytest.mark.parametrize(("interval", "burst"), [(0, 5), (10, 0)])
def test_start_limit_when_off_then_admits_all(interval, burst):
    limit = StartLimit(interval, burst)
    assert all(limit.admits(now) for now in range(20))


def test_restart_delay_when_it_grows_then_it_reaches_its_most_in_so_many_steps():
    settings = ServiceSettings(restart_sec=1, restart_steps=2, restart_max_delay=16)
    assert [restart_delay(settings, n) for n in range(4)] == [1, 4, 16, 16]
    assert restart_delay(ServiceSettings(restart_sec=2, restart_max_delay=math.inf), 7) == 2
