"""A second controller, slow and obvious: every figure is recomputed from lists of what is alive.

It shares no code with the product. A group is a plain record; usage is a sum over all charges
ever made and not yet freed, and a counter's parents are found by walking directories.
"""

from __future__ import annotations

PAGE = 4096
UNLIMITED = {
    "v4": 2**63 - 1,
    "3.8": 2**63 - 1,
    "3.12": 2**64 - 1,
    "5.10": (2**63 - 1) // PAGE * PAGE,
}


class Group:
    def __init__(self, model, name, parent):
        self.name, self.parent = name, parent
        self.removed = False
        self.hierarchical = parent.hierarchical if parent else False
        # Fixed at birth: what use_hierarchy becomes later does not relink counters (K75).
        if parent is None:
            self.above = None
        elif parent.hierarchical:
            self.above = parent
        else:
            self.above = model.root if model.kernel == "5.10" else None
        self.active = parent is not None and model.kernel == "5.10"
        if parent is not None and parent.hierarchical and parent.active:
            self.active = True
        self.limit = dict.fromkeys(("kmem", "memory"), UNLIMITED[model.kernel])
        self.peak = dict.fromkeys(("kmem", "memory"), 0)
        self.failures = dict.fromkeys(("kmem", "memory"), 0)

    def line(self):
        group, line = self, []
        while group is not None:
            line.append(group)
            group = group.above
        return line


class Model:
    def __init__(self, kernel):
        self.kernel = kernel
        self.root = None
        self.root = Group(self, "", None)
        self.groups = [self.root]
        self.charges = []  # (group, nbytes, counters)

    def usage(self, group, counter):
        return sum(
            nbytes
            for owner, nbytes, counters in self.charges
            if counter in counters and group in owner.line()
        )

    def children(self, group):
        return [each for each in self.groups if each.parent is group and not each.removed]

    def lingers(self, group):
        """Whether a removed group is still there: 5.10 shows such a one to use_hierarchy (K76)."""
        own = any(owner is group for owner, _, _ in self.charges)
        below = [each for each in self.groups if each.parent is group]
        return group.removed and (own or any(self.lingers(each) for each in below))

    def make(self, name, parent):
        if any(each.name == name for each in self.children(parent)):
            return "EEXIST"
        group = Group(self, name, parent)
        self.groups.append(group)
        return group

    def remove(self, group, busy):
        if busy or self.children(group):
            return "EBUSY"
        group.removed = True
        return "ok"

    def set_hierarchy(self, group, value):
        if value == group.hierarchical:
            return "ok"
        if group.parent is not None and group.parent.hierarchical:
            return "EINVAL"
        below = [each for each in self.groups if each.parent is group]
        if self.children(group) or (self.kernel == "5.10" and any(map(self.lingers, below))):
            return "EBUSY"
        group.hierarchical = value
        return "ok"

    def set_kmem_limit(self, group, limit, busy):
        if group is self.root:
            return "EINVAL"
        first = not group.active and limit != UNLIMITED[self.kernel]
        if first and (busy or (group.hierarchical and self.children(group))):
            return "EBUSY"
        too_small = limit < self.usage(group, "kmem")
        if too_small and not (first and self.kernel in ("3.8", "3.12")):
            return "EBUSY"
        if not too_small:
            group.limit["kmem"] = limit
        group.active = group.active or first
        return "ok"

    def set_memory_limit(self, group, limit):
        if group is self.root:
            return "EINVAL"
        if limit < self.usage(group, "memory"):
            return "EBUSY"
        group.limit["memory"] = limit
        return "ok"

    def reset(self, group, counter, what):
        if what == "peak":
            group.peak[counter] = self.usage(group, counter)
        else:
            group.failures[counter] = 0

    def try_charge(self, group, nbytes, attempts, *, forced):
        """Charge as often as the flags make the kernel try; say whether it was allowed.

        :param attempts: how often the memory counter is asked before giving up.
        :param forced: what does not fit is forced in.
        """
        if not group.active:
            return "untouched"
        order = ("kmem", "memory") if self.kernel in ("3.8", "3.12") else ("memory", "kmem")
        held = []
        for counter in order:
            for _ in range(attempts if counter == "memory" else 1):
                full = self._walk(group, counter, nbytes)
                if full is None:
                    break
            if full is not None and forced:
                for each in group.line():
                    each.peak[counter] = max(each.peak[counter], self.usage(each, counter) + nbytes)
                full = None
            if full is not None:
                for charge in held:
                    self.charges.remove(charge)
                return "refused"
            charge = (group, nbytes, (counter,))
            self.charges.append(charge)
            held.append(charge)
        for charge in held:
            self.charges.remove(charge)
        self.charges.append((group, nbytes, order))
        return "charged"

    def _walk(self, group, counter, nbytes):
        for each in group.line():
            after = self.usage(each, counter) + nbytes
            if after > each.limit[counter]:
                each.failures[counter] += 1
                return each
            each.peak[counter] = max(each.peak[counter], after)
        return None

    def uncharge(self, group, nbytes):
        self.charges.remove(next(c for c in self.charges if c[0] is group and c[1] == nbytes))
