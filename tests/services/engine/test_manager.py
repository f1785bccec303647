"""Units together: who starts with whom, and who stops with whom."""

from __future__ import annotations

SLEEP = "ExecStart=/bin/sleep 60\n"


def unit(text: str, service: str = SLEEP) -> str:
    return f"[Unit]\n{text}\n[Service]\n{service}"


def states(stage, *names):
    return [stage.manager.members[f"{name}.service"].state.value for name in names]


def test_unit_when_what_it_requires_fails_then_it_is_not_started(stage):
    async def script(stage):
        assert not await stage.started
        assert states(stage, "a", "b", "c") == ["failed", "dead", "running"]

    found = stage.play(
        {
            "a.service": "Type=oneshot\nExecStart=/bin/false\n",
            "b.service": unit("Requires=a.service\nAfter=a.service"),
            "c.service": unit("Wants=a.service\nAfter=a.service"),
        },
        script,
    )
    assert found["b.service"]["result"] == "dependency"
    assert found["b.service"]["starts"] == 0


def test_unit_when_stopped_then_those_that_need_it_stop_first(stage):
    async def script(stage):
        assert await stage.started
        await stage.manager.stop(["a.service"])
        assert states(stage, "a", "b", "c", "d") == ["dead", "dead", "dead", "running"]
        assert await stage.manager.start(["b.service"])
        assert states(stage, "a", "b", "c") == ["running", "running", "dead"]
        assert await stage.manager.restart(["a.service"])
        assert states(stage, "a", "b", "c") == ["running", "running", "dead"]
        starts = [stage.manager.describe(f"{name}.service")["starts"] for name in "abcd"]
        assert starts == [3, 3, 1, 1]

    stage.play(
        {
            "a.service": unit(""),
            "b.service": unit("Requires=a.service\nAfter=a.service"),
            "c.service": unit("PartOf=a.service\nAfter=b.service"),
            "d.service": unit("Wants=a.service"),
        },
        script,
    )
    ends = [one.unit for one in stage.journal.entries if one.text == "dead"][:3]
    assert ends == ["c.service", "b.service", "a.service"]


def test_unit_when_what_it_is_bound_to_ends_then_it_stops(stage):
    async def script(stage):
        assert await stage.started
        (stage.folder / "die").write_text("")
        await stage.until(lambda: states(stage, "a", "b", "c") == ["failed", "dead", "running"])

    stage.play(
        {
            "a.service": unit(
                "", "ExecStart=/bin/sh -c 'while ! test -e %Y/die; do sleep 0.02; done; exit 1'\n"
            ),
            "b.service": unit("BindsTo=a.service\nAfter=a.service"),
            "c.service": unit("Requires=a.service\nAfter=a.service"),
        },
        script,
    )


def test_unit_when_it_ends_well_then_on_success_starts_another(stage):
    async def script(stage):
        await stage.until(lambda: "after" in stage.lines("b@a.service"))

    stage.play(
        {
            "a.service": unit("OnSuccess=b@%N.service", "Type=oneshot\nExecStart=/bin/true\n"),
            "b@.service": "Type=oneshot\nExecStart=/bin/echo after\n",
        },
        script,
        "a.service",
    )


def test_units_when_all_are_over_then_the_run_ends_and_tells_whether_they_held(stage):
    async def run(stage):
        # The stage's own start job is left alone: this is the whole of services run.
        return await stage.manager.run()

    held = []

    async def script(stage):
        held.append(await run(stage))

    found = stage.play(
        {
            "a.service": "Type=oneshot\nExecStart=/bin/true\n",
            "b.service": "ExecStart=/bin/sh -c 'exit 3'\n",
            "c.target": "[Unit]\nWants=a.service b.service\n",
        },
        script,
    )
    assert held == [False]
    assert found["a.service"]["result"] == "success"
    assert found["b.service"]["result"] == "exit-code"
