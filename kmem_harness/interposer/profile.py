"""Write a filter into a container engine's seccomp profile, for its runtime to install. Pure.

Knows profiles as engines take them (moby's profiles/seccomp, containers-common) and as the OCI
runtime specification has them; knows no engine. What a profile denies stays denied; of what it
allows, the calls to be trapped are notified instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.interposer.filter import Condition, FilterPlan

__all__ = ["ALLOW_ALL", "WAIT_KILLABLE", "listening", "see_no_listener"]

#: The profile of a container that runs without one.
ALLOW_ALL: dict[str, Any] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
#: A flag for runtimes that know it: a signal must not interrupt a call we are pricing.
WAIT_KILLABLE = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"

_ALLOW = "SCMP_ACT_ALLOW"
_ALLOWING = (_ALLOW, "SCMP_ACT_LOG")
_NOTIFY = "SCMP_ACT_NOTIFY"
_DENY = "SCMP_ACT_ERRNO"
_MASKED_EQUAL = "SCMP_CMP_MASKED_EQ"
#: The one ABI the plan's numbers are from. Calls of another end their caller, at libseccomp's word.
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def listening(
    profile: Mapping[str, Any], plan: FilterPlan, path: str, flags: list[str]
) -> dict[str, Any]:
    """Give *profile* with the calls of *plan* trapped, its listener to be sent to *path*.

    Raises: ConfigurationError for a profile that has a listener, or that allows by default a
    trapped call which it denies for some arguments: a rule for the others cannot be said.
    """
    see_no_listener(profile)
    groups = [_with_names(group) for group in profile.get("syscalls") or []]
    merged = []
    for group in groups:
        others = [name for name in group["names"] if name not in plan.trap | plan.deny.keys()]
        trapped = [name for name in group["names"] if name in plan.trap]
        if others:
            merged.append({**group, "names": others})
        if trapped and group["action"] not in _ALLOWING:
            merged.append({**group, "names": trapped})
        elif trapped:
            merged += _notify(group, trapped, plan)
    if profile["defaultAction"] in _ALLOWING:
        merged += _notify({}, _left_to_default(groups, plan), plan)
    for name, errno in sorted(plan.deny.items()):
        merged.append({"names": [name], "action": _DENY, "errnoRet": errno})
    result = {name: value for name, value in profile.items() if name != "archMap"}
    return {
        **result,
        "architectures": [_ARCHITECTURES[plan.architecture.name]],
        "flags": sorted({*(profile.get("flags") or []), *flags}),
        "listenerPath": path,
        "syscalls": merged,
    }


def see_no_listener(profile: Mapping[str, Any]) -> None:
    """See that *profile* leaves room for a listener. Raises: ConfigurationError."""
    actions = {group.get("action") for group in profile.get("syscalls") or []}
    if profile.get("listenerPath") or _NOTIFY in actions:
        raise ConfigurationError(
            "the seccomp profile has a listener of its own, and a container can have but one: leave "
            "it out, or run the container without a kmem limit"
        )


def _with_names(group: Mapping[str, Any]) -> dict[str, Any]:
    """Give a group of rules in the newer of two forms."""
    names = group.get("names") or [group.get("name")]
    return {**{key: value for key, value in group.items() if key != "name"}, "names": names}


def _left_to_default(groups: list[dict[str, Any]], plan: FilterPlan) -> list[str]:
    """List the trapped calls that no group speaks of."""
    spoken_of: set[str] = set()
    for group in groups:
        for name in plan.trap.intersection(group["names"]):
            if group.get("args") and group["action"] not in _ALLOWING:
                raise ConfigurationError(
                    f"the seccomp profile denies {name!r} for some arguments and allows it for all "
                    "others by default: those cannot be trapped by a rule; have the profile name "
                    "what it allows, or use the shim (--docker-listener shim)"
                )
            spoken_of.add(name)
    return sorted(plan.trap - spoken_of)


def _notify(group: dict[str, Any], names: list[str], plan: FilterPlan) -> list[dict[str, Any]]:
    """Notify the calls *names* that *group* allows, each under the plan's own condition, too."""
    rules = []
    # "None of these numbers" cannot be said: then all calls are notified.
    unconditional = [
        name
        for name in names
        if name not in plan.only_if or group.get("args") or len(plan.only_if[name].equal) > 1
    ]
    if unconditional:
        rules.append({**group, "names": unconditional, "action": _NOTIFY})
    for name in names:
        if name not in unconditional:
            rules += [
                {**group, "names": [name], "action": action, "args": [argument]}
                for action, argument in _arguments(plan.only_if[name])
            ]
    return rules


def _arguments(condition: Condition) -> list[tuple[str, dict[str, Any]]]:
    """Say with which arguments a call is notified, and with which it is not.

    Rules of one call are alternatives, so that "any of these bits" is a rule for each bit, and so
    is "not this number"; of an argument, only the low 32 bits are looked at.
    """
    bits = [1 << bit for bit in range(32)]
    if not condition.equal:
        if_set, if_not = (_ALLOW, _NOTIFY) if condition.unset else (_NOTIFY, _ALLOW)
        tests = [(if_set, bit, bit) for bit in bits if bit & condition.mask]
        tests.append((if_not, condition.mask, 0))
    else:
        (equal,) = (one & 0xFFFFFFFF for one in condition.equal)
        tests = [(_NOTIFY, 0xFFFFFFFF, equal)]
        tests += [(_ALLOW, bit, bit & ~equal) for bit in bits]
    return [
        (
            action,
            {"index": condition.arg, "value": mask, "valueTwo": value, "op": _MASKED_EQUAL},
        )
        for action, mask, value in tests
    ]
