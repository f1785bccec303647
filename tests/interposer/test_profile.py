"""A filter in an engine's profile: what was allowed is notified, what was denied stays denied."""

from __future__ import annotations

from typing import Any

import pytest

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.interposer.filter import Condition, FilterPlan
from kmem_harness.interposer.profile import ALLOW_ALL, WAIT_KILLABLE, listening
from kmem_harness.interposer.syscalls import X86_64

PATH = "/run/listener"
ALLOW, NOTIFY, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_NOTIFY", "SCMP_ACT_ERRNO"


def plan(*trap: str, **only_if: Condition) -> FilterPlan:
    return FilterPlan(
        architecture=X86_64,
        trap=frozenset([*trap, *only_if]),
        deny={"io_uring_setup": 38},
        only_if=only_if,
    )


def rules(profile: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [group for group in profile["syscalls"] if name in group["names"]]


def test_listening_when_everything_is_allowed_then_only_what_is_trapped_is_named():
    profile = listening(ALLOW_ALL, plan("clone", "fork"), PATH, [WAIT_KILLABLE])
    assert profile["listenerPath"] == PATH
    assert profile["flags"] == [WAIT_KILLABLE]
    assert profile["architectures"] == ["SCMP_ARCH_X86_64"]
    assert profile["defaultAction"] == ALLOW
    assert profile["syscalls"] == [
        {"names": ["clone", "fork"], "action": NOTIFY},
        {"names": ["io_uring_setup"], "action": ERRNO, "errnoRet": 38},
    ]
    assert ALLOW_ALL["syscalls"] == []


def test_listening_when_calls_are_allowed_by_name_then_those_trapped_are_notified_as_allowed():
    masked = [{"index": 0, "value": 2114060288, "op": "SCMP_CMP_MASKED_EQ"}]
    base = {
        "defaultAction": ERRNO,
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["read", "fork", "io_uring_setup"], "action": ALLOW},
            {"names": ["clone"], "action": ALLOW, "args": masked, "excludes": {"caps": ["X"]}},
            {"name": "clone3", "action": ERRNO, "errnoRet": 38},
        ],
    }
    profile = listening(base, plan("clone", "clone3", "fork", "vfork"), PATH, [])
    assert rules(profile, "read") == [{"names": ["read"], "action": ALLOW}]
    assert rules(profile, "fork") == [{"names": ["fork"], "action": NOTIFY}]
    assert rules(profile, "clone") == [
        {"names": ["clone"], "action": NOTIFY, "args": masked, "excludes": {"caps": ["X"]}}
    ]
    assert rules(profile, "clone3") == [{"names": ["clone3"], "action": ERRNO, "errnoRet": 38}]
    assert rules(profile, "vfork") == []  # denied by default, and so it stays
    assert rules(profile, "io_uring_setup") == [
        {"names": ["io_uring_setup"], "action": ERRNO, "errnoRet": 38}
    ]
    assert "archMap" not in profile


def test_listening_when_a_call_is_trapped_by_its_arguments_then_there_is_a_rule_for_each_bit():
    profile = listening(ALLOW_ALL, plan(openat=Condition(arg=2, mask=0x400040)), PATH, [])
    found = [(rule["action"], *rule["args"]) for rule in rules(profile, "openat")]
    masked = {"index": 2, "op": "SCMP_CMP_MASKED_EQ"}
    assert found == [
        (NOTIFY, {**masked, "value": 0x40, "valueTwo": 0x40}),
        (NOTIFY, {**masked, "value": 0x400000, "valueTwo": 0x400000}),
        (ALLOW, {**masked, "value": 0x400040, "valueTwo": 0}),
    ]


def test_listening_when_bits_must_be_unset_then_each_of_them_allows():
    condition = Condition(arg=3, mask=0x10, unset=True)
    profile = listening(ALLOW_ALL, plan(openat=condition), PATH, [])
    found = [(rule["action"], *rule["args"]) for rule in rules(profile, "openat")]
    masked = {"index": 3, "op": "SCMP_CMP_MASKED_EQ", "value": 0x10}
    assert found == [(ALLOW, {**masked, "valueTwo": 0x10}), (NOTIFY, {**masked, "valueTwo": 0})]


def test_listening_when_a_call_is_trapped_for_one_value_then_every_other_is_allowed():
    profile = listening(ALLOW_ALL, plan(fcntl=Condition(arg=1, equal=(5,))), PATH, [])
    found = [(rule["action"], *rule["args"]) for rule in rules(profile, "fcntl")]
    notified = [argument for action, argument in found if action == NOTIFY]
    assert notified == [
        {"index": 1, "op": "SCMP_CMP_MASKED_EQ", "value": 0xFFFFFFFF, "valueTwo": 5}
    ]

    def is_allowed(value: int) -> bool:
        return any(
            action == ALLOW and value & test["value"] == test["valueTwo"] for action, test in found
        )

    assert [value for value in range(64) if not is_allowed(value)] == [5]
    assert is_allowed(5 | 1 << 31)


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ({"defaultAction": ALLOW, "listenerPath": "/elsewhere"}, "listener of its own"),
        (
            {"defaultAction": ALLOW, "syscalls": [{"names": ["bpf"], "action": NOTIFY}]},
            "listener of its own",
        ),
        (
            {
                "defaultAction": ALLOW,
                "syscalls": [{"names": ["clone"], "action": ERRNO, "args": [{"index": 0}]}],
            },
            "denies 'clone' for some arguments",
        ),
    ],
)
def test_listening_when_a_profile_cannot_hold_it_then_says_why(
    base: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        listening(base, plan("clone"), PATH, [])
