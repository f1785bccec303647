"""Jobs on real services: what a start waits for, who is restarted or stopped with whom, by which signal."""

from __future__ import annotations

import asyncio

import pytest

from kmem_harness.core.errors import ConfigurationError

SLEEP = "ExecStart=/bin/sleep 60\n"
#: Says by which signal it is ended.
TELLER = (
    'ExecStart=/bin/sh -c \'for s in TERM USR1 INT; do trap "echo got $$s; exit 0" $$s; done; '
    "echo up; while :; do sleep 0.02; done'\n"
)


def unit(text: str, service: str = SLEEP) -> str:
    return f"[Unit]\n{text}\n[Service]\n{service}"


def states(stage, names):
    return {name: stage.manager.members[f"{name}.service"].state.value for name in names}


def starts(stage, names):
    return {name: stage.manager.describe(f"{name}.service")["starts"] for name in names}


# -- what a start job waits for ------------------------------------------------------------


def test_start_when_a_restart_is_due_then_it_waits_for_that_and_a_stop_ends_it(stage):
    """It waited for the whole life of the service, and started it again after an intended stop."""
    (stage.folder / "once").write_text("")

    async def script(stage):
        await stage.until_state("a.service", "auto-restart")
        again = asyncio.ensure_future(stage.manager.start(["a.service"]))
        await stage.until_state("a.service", "running")
        assert await asyncio.wait_for(again, 5)
        assert starts(stage, "a") == {"a": 2}
        await stage.manager.stop(["a.service"])
        await asyncio.sleep(0.1)
        assert states(stage, "a") == {"a": "dead"}
        assert starts(stage, "a") == {"a": 2}

    stage.play(
        {
            "a.service": "Restart=on-failure\nRestartSec=300ms\n"
            "ExecStart=/bin/sh -c 'rm %Y/once && exit 1; exec sleep 60'\n"
        },
        script,
    )


def test_stop_when_a_start_waits_for_a_restart_then_both_end_and_it_stays_down(stage):
    async def script(stage):
        await stage.until_state("a.service", "auto-restart")
        again = asyncio.ensure_future(stage.manager.start(["a.service"]))
        await asyncio.sleep(0.05)
        await stage.manager.stop(["a.service"])
        assert not await asyncio.wait_for(again, 5)
        await asyncio.sleep(0.5)
        assert states(stage, "a") == {"a": "dead"}
        assert starts(stage, "a") == {"a": 1}

    stage.play(
        {"a.service": "Restart=always\nRestartSec=400ms\nExecStart=/bin/sh -c 'exit 1'\n"}, script
    )


def test_requirement_when_it_failed_once_and_runs_again_then_who_needs_it_starts(stage):
    """Its old failure was held against it for ever."""

    async def script(stage):
        assert not await stage.started
        (stage.folder / "good").write_text("")
        assert await stage.manager.restart(["b.service"])
        assert await stage.manager.start(["a.service"])
        assert states(stage, "ab") == {"a": "running", "b": "running"}

    found = stage.play(
        {
            "a.service": unit("Requires=b.service\nAfter=b.service"),
            "b.service": "Type=exec\nExecStartPre=/bin/sh -c 'test -e %Y/good'\nExecStart=/bin/sleep 60\n",
        },
        script,
        "a.service",
    )
    assert found["a.service"]["result"] == "success"


# -- who is restarted, started, stopped with whom ------------------------------------------


def test_restart_when_others_need_it_then_those_that_run_are_restarted_too(stage):
    async def script(stage):
        assert await stage.started
        await stage.manager.stop(["f.service"])
        assert await stage.manager.restart(["a.service"])
        assert starts(stage, "abcdef") == {"a": 2, "b": 2, "c": 2, "d": 2, "e": 1, "f": 1}
        assert states(stage, "f") == {"f": "dead"}

    stage.play(
        {
            "a.service": unit(""),
            **{
                f"{name}.service": unit(f"{relation}=a.service\nAfter=a.service")
                for name, relation in zip(
                    "bcdef", ("Requires", "PartOf", "BindsTo", "Wants", "PartOf"), strict=True
                )
            },
        },
        script,
    )


def test_restart_when_it_is_automatic_then_it_reaches_those_that_require_it(stage):
    async def script(stage):
        assert await stage.started
        (stage.folder / "die").write_text("")
        await stage.until(lambda: starts(stage, "abc") == {"a": 2, "b": 2, "c": 1})
        await stage.until(lambda: states(stage, "b") == {"b": "running"})

    stage.play(
        {
            "a.service": "Restart=always\nRestartSec=20ms\nExecStart=/bin/sh -c "
            "'while ! rm %Y/die 2>/dev/null; do sleep 0.02; done; exit 1'\n",
            "b.service": unit("Requires=a.service\nAfter=a.service"),
            "c.service": unit("Wants=a.service\nAfter=a.service"),
        },
        script,
    )


def test_requisite_when_the_other_is_not_active_then_it_fails_and_starts_nothing(stage):
    async def script(stage):
        assert not await stage.started
        assert starts(stage, "ab") == {"a": 0, "b": 0}
        assert await stage.manager.start(["b.service"])
        assert await stage.manager.start(["a.service"])
        await stage.manager.stop(["b.service"])
        assert states(stage, "ab") == {"a": "dead", "b": "dead"}

    found = stage.play(
        {"a.service": unit("Requisite=b.service"), "b.service": unit("")}, script, "a.service"
    )
    assert found["a.service"]["result"] == "success"  # that was before


def test_requisite_when_the_other_was_skipped_then_it_fails(stage):
    async def script(stage):
        assert not await stage.started
        assert starts(stage, "ab") == {"a": 0, "b": 0}

    found = stage.play(
        {
            "a.service": unit("Requisite=b.service\nAfter=b.service"),
            "b.service": unit("ConditionPathExists=!/"),
        },
        script,
    )
    assert found["a.service"]["result"] == "dependency"
    assert found["a.service"]["state"] == "dead"


def test_conflict_when_the_opposite_starts_then_the_first_stops(stage):
    """A unit of OnFailure= ran beside its opposite."""

    async def script(stage):
        await stage.until(
            lambda: states(stage, "abc") == {"a": "failed", "b": "dead", "c": "running"}
        )
        assert await stage.manager.start(["b.service"])
        assert states(stage, "bc") == {"b": "running", "c": "dead"}

    stage.play(
        {
            "a.service": unit(
                "OnFailure=c.service\nWants=b.service\nAfter=b.service", "ExecStart=/bin/false\n"
            ),
            "b.service": unit(""),
            "c.service": unit("Conflicts=b.service"),
        },
        script,
        "a.service",
    )


def test_upheld_unit_when_it_ends_then_it_is_started_again_as_long_as_its_upholder_runs(stage):
    async def script(stage):
        assert await stage.started
        await stage.until(lambda: starts(stage, "b")["b"] >= 3)
        await stage.manager.stop(["a.service"])
        await stage.until_state("b.service", "dead")
        before = starts(stage, "b")
        await asyncio.sleep(0.3)
        assert starts(stage, "b") == before

    stage.play(
        {
            "a.service": unit("Upholds=b.service"),
            "b.service": unit("StartLimitBurst=100", "ExecStart=/bin/sleep 0.1\n"),
        },
        script,
        "a.service",
    )


def test_unneeded_unit_when_the_last_that_wants_it_stops_then_it_stops(stage):
    async def script(stage):
        assert await stage.started
        await stage.manager.stop(["a.service"])
        assert states(stage, "c") == {"c": "running"}
        await stage.manager.stop(["b.service"])
        await stage.until_state("c.service", "dead")

    stage.play(
        {
            "a.service": unit("Wants=c.service"),
            "b.service": unit("Requires=c.service"),
            "c.service": unit("StopWhenUnneeded=yes"),
        },
        script,
        "a.service",
        "b.service",
    )


def test_reload_when_it_is_propagated_then_those_that_run_reload(stage):
    reloads = SLEEP + "ExecReload=/bin/echo again\n"

    async def script(stage):
        assert await stage.started
        assert await stage.manager.reload(["a.service"])
        for name in "abc":
            assert stage.lines(f"{name}.service") == ["again"]
        with pytest.raises(ConfigurationError, match="no ExecReload="):
            await stage.manager.reload(["d.service"])

    stage.play(
        {
            "a.service": unit("PropagatesReloadTo=b.service d.service", reloads),
            "b.service": unit("", reloads),
            "c.service": unit("ReloadPropagatedFrom=a.service", reloads),
            "d.service": unit(""),
        },
        script,
    )


def test_isolation_when_asked_for_then_all_else_stops(stage):
    async def script(stage):
        assert await stage.started
        with pytest.raises(ConfigurationError, match="AllowIsolate=yes"):
            await stage.manager.isolate("a.service")
        assert await stage.manager.isolate("rescue.target")
        await stage.until(
            lambda: states(stage, "abc") == {"a": "dead", "b": "running", "c": "dead"}
        )

    stage.play(
        {
            "rescue.target": "[Unit]\nAllowIsolate=yes\nRequires=b.service\n",
            **{f"{name}.service": unit("") for name in "abc"},
        },
        script,
    )


# -- how a service is stopped to be restarted ----------------------------------------------


def test_restart_kill_signal_when_restarted_then_it_is_sent_and_no_other_time(stage):
    """It was sent before an automatic restart, and not on a restart that was asked for."""

    async def script(stage):
        assert await stage.started
        await stage.until(lambda: stage.lines("a.service") == ["up"])
        assert await stage.manager.restart(["a.service"])
        await stage.until(lambda: stage.lines("a.service") == ["up", "got USR1", "up"])
        await stage.manager.stop(["a.service"])
        assert stage.lines("a.service")[3:] == ["got TERM"]

    stage.play({"a.service": f"KillMode=mixed\nRestartKillSignal=SIGUSR1\n{TELLER}"}, script)


def test_runtime_directory_when_preserved_over_restarts_then_over_those_asked_for_too(stage):
    run = stage.folder.parent / "host/run/x"

    async def script(stage):
        assert await stage.started
        (run / "kept").write_text("")
        assert await stage.manager.restart(["a.service"])
        assert (run / "kept").exists()
        await stage.manager.stop(["a.service"])
        assert not run.exists()

    stage.play(
        {"a.service": f"RuntimeDirectory=x\nRuntimeDirectoryPreserve=restart\n{SLEEP}"}, script
    )


# -- the start limit -----------------------------------------------------------------------


def test_start_limit_when_reset_then_the_unit_starts_again(stage):
    async def script(stage):
        await stage.until_state("a.service", "failed")
        assert not await stage.manager.start(["a.service"])
        stage.manager.reset_failed(["a.service"])
        assert states(stage, "a") == {"a": "dead"}
        assert await stage.manager.start(["a.service"])

    stage.play(
        {
            "a.service": unit(
                "StartLimitBurst=2\nStartLimitIntervalSec=60",
                "Restart=always\nRestartSec=10ms\nExecStart=/bin/sh -c 'exit 1'\n",
            )
        },
        script,
    )
