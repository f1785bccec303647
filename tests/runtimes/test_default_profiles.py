"""The default profiles of engines: whose they are, and that with our calls in none is looser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kmem_harness.controller.account.box import Box
from kmem_harness.controller.admission.filter_plan import plan_filter
from kmem_harness.controller.admission.prices import make_prices, read_kinds
from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.profiles import profile_named
from kmem_harness.core.tree import MemcgTree
from kmem_harness.costs.live import live_kinds
from kmem_harness.costs.table import load_costs
from kmem_harness.interposer.profile import ALLOW_ALL, WAIT_KILLABLE, listening
from kmem_harness.interposer.syscalls import X86_64
from kmem_harness.runtimes.default_profiles import CARRIED, default_profile
from tests.support.profiles import (
    DEFAULT_CAPABILITIES,
    actions,
    calls_of,
    telling_arguments,
)

if TYPE_CHECKING:
    from kmem_harness.interposer.filter import FilterPlan

GOES_ON = {"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY"}
CAPABILITIES = {
    "default": DEFAULT_CAPABILITIES,
    "none": frozenset[str](),
    "sys-admin": DEFAULT_CAPABILITIES | {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF"},
}
BASES: dict[str, dict[str, Any]] = {
    **{
        f"{one.engine}-{one.since[0]}": default_profile(one.engine, ".".join(map(str, one.since)))
        for one in CARRIED
    },
    "unconfined": ALLOW_ALL,
}


@pytest.fixture(scope="module", params=["v4", "5.10"])
def plan(request: pytest.FixtureRequest) -> FilterPlan:
    """Plan the filter of a container that is charged for everything a kernel charges for."""
    tree = MemcgTree(profile_named(request.param), stock=False, use_hierarchy=True)
    asked = {name: kind.request() for name, kind in live_kinds(load_costs(request.param)).items()}
    kinds = read_kinds(asked)
    box = Box("one", tree.root, kinds, observe=True)
    box.prices = make_prices(kinds, asked, X86_64, box.table_grows)
    return plan_filter(box, X86_64, "container")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("capabilities", CAPABILITIES)
def test_listening_when_put_into_an_engines_profile_then_no_call_is_allowed_that_was_not(
    base: str, capabilities: str, plan: FilterPlan
) -> None:
    """Call by call, with arguments on both sides of all that either profile looks at."""
    before, given = BASES[base], CAPABILITIES[capabilities]
    after = listening(before, plan, "/run/listener", [WAIT_KILLABLE])
    looked_at = 0
    for call in sorted(calls_of(before, after) | {"reboot", "no_such_call"}):
        for arguments in telling_arguments(call, before, after):
            was, now = (actions(one, call, arguments, given) for one in (before, after))
            if len(was) > 1:  # podman's own does not agree with itself about setns
                assert {"SCMP_ACT_ALLOW" if one in GOES_ON else one for one in now} == was
                continue
            assert len(now) == 1, (call, arguments, now)
            if now <= GOES_ON:
                assert was <= GOES_ON, f"{call}{arguments} was {was}"
            else:  # nor is one denied that was allowed, but for those that are so on purpose
                assert not was <= GOES_ON or call in plan.deny, f"{call}{arguments} is {now}"
            trapped = call in plan.trap and _holds(plan, call, arguments)
            if trapped and was <= GOES_ON:
                assert now == {"SCMP_ACT_NOTIFY"}, f"{call}{arguments} escapes"
            looked_at += 1
    assert looked_at > (300 if base != "unconfined" else 15)


def _holds(plan: FilterPlan, call: str, arguments: list[int]) -> bool:
    condition = plan.only_if.get(call)
    return condition is None or condition.holds(arguments[condition.arg])


def test_default_profile_of_docker_then_denies_what_podmans_allows() -> None:
    """To take the one for the other loosened containers of Docker."""
    arguments = [0x10000000, 0, 0, 0, 0, 0]  # CLONE_NEWUSER
    for call in ("unshare", "mount", "umount2"):
        verdicts = {
            engine: actions(default_profile(engine, version), call, arguments, DEFAULT_CAPABILITIES)
            for engine, version in (("docker", "28.5.2"), ("podman", "4.3.1"))
        }
        assert not verdicts["docker"] & GOES_ON
        assert verdicts["podman"] <= GOES_ON


@pytest.mark.parametrize(
    ("engine", "version"),
    [
        *(("docker", text) for text in ("19.03.15", "24.0.7", "29.0.0", "", "dev")),
        *(("podman", text) for text in ("3.0.1", "4.9.3", "6.0.0")),
        ("lxc", "5.0"),
    ],
)
def test_default_profile_when_the_version_is_not_known_then_says_so(
    engine: str, version: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"profile of {engine} .*is not known.*its file"):
        default_profile(engine, version)
