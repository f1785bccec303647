"""The guide's table "what the controller does, by kernel", drawn from the profiles.

``python -m kmem_harness.core.kernel_table`` prints it; a test keeps the guide's copy true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmem_harness.core.profiles import KernelProfile, profile_named
from kmem_harness.core.releases import PROFILE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["markdown_table"]


def markdown_table() -> str:
    """Draw the guide's table "what the controller does, by kernel" from the profiles."""
    profiles = [profile_named(name) for name in PROFILE_NAMES]
    rows = [("", *(profile.title for profile in profiles))]
    rows.append(("`kernel=`", *(f"`{profile.name}`" for profile in profiles)))
    rows += [(what, *(tell(profile) for profile in profiles)) for what, tell in _ROWS]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + "---|" * (len(profiles) + 1))
    return "\n".join(lines) + "\n"


def _order(profile: KernelProfile) -> str:
    names = ["memory", "memsw"]
    if profile.charging.memsw_first:
        names.reverse()
    names.insert(0 if profile.charging.kmem_first else 2, "kmem")
    return ", ".join(names)


def _yes(answer: bool) -> str:  # noqa: FBT001 - the answer is all there is
    return "yes" if answer else "no"


_ROWS: tuple[tuple[str, Callable[[KernelProfile], str]], ...] = (
    ("charged", lambda p: p.charges),
    ("one task's stack", lambda p: f"{p.stack_nbytes // 1024} KiB"),
    ("accounts", lambda p: p.activation.summary),
    ("counters asked, in order", _order),
    ("reads when unlimited", lambda p: str(p.unlimited)),
    ("limits round", lambda p: "up to a page" if p.limit_text.rounds_up else "down to a page"),
    ("suffixes", lambda p: " ".join(p.limit_text.suffixes)),
    ("an empty write means", lambda p: "nothing" if p.ignores_empty_writes else "0"),
    ("kmem limit hit", lambda _: "ENOMEM at once"),
    ("memory limit hit", lambda p: p.charging.at_memory_limit),
    (
        "an allocation that must not fail",
        lambda p: "charged past the limit" if p.charging.nofail_accounts else "not charged",
    ),
    (
        "a dying task's charge",
        lambda p: p.charging.when_dying,
    ),
    (
        "freed kernel pages go",
        lambda p: "to the stock" if p.charging.uncharge_refills else "to the counters",
    ),
    (
        "a removed memcg's slab objects",
        lambda p: "go to its parent" if p.reparents_objects else "keep it",
    ),
    ("a non-hierarchical child counts in the root", lambda p: _yes(p.links_to_root)),
    ("`force_empty` needs an empty memcg", lambda p: _yes(p.force_empty_checks)),
)


if __name__ == "__main__":
    print(markdown_table(), end="")  # noqa: T201 - the command is its output
