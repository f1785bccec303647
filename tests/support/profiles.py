"""Say what a seccomp profile does with a call, as engines and libseccomp read it.

Source: moby's profiles/seccomp/seccomp_linux.go (includes and excludes), seccomp_rule_add(3).
Imports nothing of the harness.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["DEFAULT_CAPABILITIES", "actions", "calls_of", "telling_arguments"]

#: What Docker leaves a container that asks for nothing.
DEFAULT_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in (
        *("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID"),
        *("SETFCAP", "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE"),
    )
)
_COMPARE = {
    "SCMP_CMP_NE": lambda word, value, _: word != value,
    "SCMP_CMP_LT": lambda word, value, _: word < value,
    "SCMP_CMP_LE": lambda word, value, _: word <= value,
    "SCMP_CMP_EQ": lambda word, value, _: word == value,
    "SCMP_CMP_GE": lambda word, value, _: word >= value,
    "SCMP_CMP_GT": lambda word, value, _: word > value,
    "SCMP_CMP_MASKED_EQ": lambda word, mask, value: word & mask == value,
}


def actions(
    profile: Mapping[str, Any],
    call: str,
    arguments: Sequence[int],
    capabilities: frozenset[str],
    architecture: str = "amd64",
) -> set[str]:
    """Give the actions of all rules that match: one, where a profile is sound."""
    found = {
        group["action"]
        for group in _groups(profile, call)
        if _applies(group, capabilities, architecture)
        and all(
            _COMPARE[test["op"]](arguments[test["index"]], test["value"], test.get("valueTwo", 0))
            for test in group.get("args") or ()
        )
    }
    return found or {profile["defaultAction"]}


def calls_of(*profiles: Mapping[str, Any]) -> set[str]:
    """List every call that a profile names."""
    return {
        name
        for profile in profiles
        for group in profile["syscalls"]
        for name in group.get("names") or [group["name"]]
    }


def telling_arguments(call: str, *profiles: Mapping[str, Any]) -> Iterator[list[int]]:
    """Give arguments on both sides of whatever the profiles compare them with, one at a time."""
    yield [0] * 6
    for profile in profiles:
        for group in _groups(profile, call):
            tests = group.get("args") or ()
            base = [0] * 6
            for test in tests:  # all of a rule at once
                base[test["index"]] = (
                    test.get("valueTwo", 0) if "MASKED" in test["op"] else test["value"]
                )
            yield list(base)
            for test in tests:
                bits = [1 << bit for bit in range(32) if test["value"] >> bit & 1]
                for word in (test["value"], test["value"] + 1, max(test["value"] - 1, 0), *bits):
                    for other in ([0] * 6, base):
                        changed = list(other)
                        changed[test["index"]] = word
                        yield changed


def _groups(profile: Mapping[str, Any], call: str) -> list[Mapping[str, Any]]:
    return [
        group
        for group in profile["syscalls"]
        if call in (group.get("names") or [group.get("name")])
    ]


def _applies(group: Mapping[str, Any], capabilities: frozenset[str], architecture: str) -> bool:
    includes, excludes = group.get("includes") or {}, group.get("excludes") or {}
    return (
        set(includes.get("caps") or ()) <= capabilities
        and architecture in (includes.get("arches") or [architecture])
        and not set(excludes.get("caps") or ()) & capabilities
        and architecture not in (excludes.get("arches") or ())
    )
