"""Read the kinds of objects that plugins add: what makes them, and what one costs.

No census knows such an object, so it stays charged until its container is over.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.costs.kinds import SYSCALL_KINDS, PassedThrough

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

__all__ = ["added_kinds"]


def added_kinds(
    offers: Iterable[Mapping[str, Mapping[str, Any]]], taken: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Give the kinds of *offers* as a control request carries them; of two of a name, the first.

    *taken* names the kinds there are already.
    Raises: ConfigurationError naming kind, value and rule.
    """
    found: dict[str, dict[str, Any]] = {}
    for offer in offers:
        for name, kind in offer.items():
            if name in taken:
                raise ConfigurationError(
                    f"a plugin adds kind {name!r}, which there is already; give it another name, or "
                    "change its price with kmem_price_syscall"
                )
            found.setdefault(name, _request(name, kind))
    return found


def _request(name: str, kind: Mapping[str, Any]) -> dict[str, Any]:
    nbytes, errno_name = kind.get("nbytes"), kind.get("errno", "ENOMEM")
    syscalls = list(kind.get("syscalls", ()))
    if isinstance(nbytes, bool) or not isinstance(nbytes, int) or nbytes < 1:
        raise ConfigurationError(
            f"a plugin's kind {name!r} costs {nbytes!r}; a price is whole bytes from 1 on"
        )
    number = getattr(errno, str(errno_name), None)
    if not isinstance(number, int):
        raise ConfigurationError(
            f"a plugin's kind {name!r} fails with {errno_name!r}; name an errno such as ENOMEM"
        )
    free = sorted(one for one, entry in SYSCALL_KINDS.items() if isinstance(entry, PassedThrough))
    for syscall in syscalls or ("",):
        if syscall not in free:
            raise ConfigurationError(
                f"a plugin's kind {name!r} is made by {syscall!r}; name calls that are not charged "
                f"yet: {', '.join(free)}"
            )
    return {"nbytes": nbytes, "errno": number, "errno_name": errno_name, "made_by": syscalls}
