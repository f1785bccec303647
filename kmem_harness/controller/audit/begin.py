"""Put together the audit of one box: the parts that its kinds and its limits call for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.controller.admission.prices import families
from kmem_harness.controller.audit.audit import Audit, Part
from kmem_harness.controller.audit.descriptors import DescriptorPart
from kmem_harness.controller.audit.lookups import LookupPart
from kmem_harness.controller.audit.names import NamePart
from kmem_harness.controller.audit.spaces import SpacePart
from kmem_harness.controller.audit.system_v import SystemVPart
from kmem_harness.controller.audit.tasks import TaskPart, ZombiePart
from kmem_harness.controller.audit.user_memory import UserPart

if TYPE_CHECKING:
    from collections.abc import Callable

    from kmem_harness.controller.account.box import Box
    from kmem_harness.controller.audit.looks import Asker, Looks
    from kmem_harness.procfs.census import TaskCensus
    from kmem_harness.procfs.processes import BoxProcesses

__all__ = ["begin_audit"]


def begin_audit(
    box: Box,
    census: TaskCensus,
    processes: BoxProcesses,
    outside: Callable[[], int],
    on_refusal: Callable[[Box, dict[str, Any]], None],
    looks: Looks,
    asker: Asker,
    system_v: SystemVPart,
) -> None:
    """See what there is to look at, before the target makes anything.

    :param outside: says how many of *processes* were made outside, and so are not charged.
    :param on_refusal: is given the card of each process killed for its user memory.
    :param looks: looks, on behalf of *asker*, at what could keep us waiting.
    :param system_v: the part for System V identifiers, which takes part where they are charged.

    Raises: OSError if the box is gone, or not ours to look at.
    """
    kinds = box.kinds
    box.tasks = TaskPart(census)
    parts: list[Part] = [box.tasks]
    if ZombiePart.is_for(kinds):
        parts.append(ZombiePart(census, box.tasks))
    if any(kind.included for kind in kinds.values()) or any(
        name in kinds for name in DescriptorPart.kinds
    ):
        included = {name: kind.included for name, kind in kinds.items() if kind.included}
        box.spaces = SpacePart(processes, outside, included, bounded=not box.observe)
        descriptors = box.descriptors = DescriptorPart(processes, box.spaces)
        descriptors.leave_out_what_is_there()
        parts += [box.spaces, descriptors]
    names = families(kinds)
    if names:
        box.names = NamePart(box.init_pid, names, processes, looks, asker)
        parts.append(box.names)
    if "dentry" in kinds:
        parts.append(LookupPart())
    if any(name in kinds for name in SystemVPart.kinds):
        parts.append(system_v)
    else:
        system_v.close()
    limits_memory = any(
        counter.name == "memory" and not counter.unlimited for counter in box.counters
    )
    if limits_memory and not box.observe:
        box.user = UserPart(
            box.memcg, processes, lambda *killed: on_refusal(box, box.oom_killed(*killed))
        )
        parts.append(box.user)
    box.audit = Audit(box.books, parts)
