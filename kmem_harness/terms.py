"""What a container shall be held to, as engines carry it: in labels, annotations, or metadata. Pure.

A label or annotation is ``io.github.kmem-harness.limit=8m``, and ``.kinds``, ``.mode``, ``.inject``,
``.memcg``, ``.kernel`` beside it. A seccomp profile's ``listenerMetadata`` is one of these texts: a size
alone, or a JSON object with those names.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.core.releases import check_profile_name
from kmem_harness.costs.kinds import check_kinds
from kmem_harness.faults.rule import parse_rules
from kmem_harness.handles import limit_text

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MODES", "PREFIX", "Terms", "memcg_and_limit"]

#: What the names of all labels and annotations of ours begin with.
PREFIX = "io.github.kmem-harness."
MODES = ("enforce", "observe")
_LONGEST = 4096  # of a listenerMetadata; a label of an engine may be longer


class Terms(NamedTuple):
    """The terms of one container. *limit* as text, empty for none of its own; *kinds* ``()`` for all.

    *memcg* is the memcg that the container's own is made in, *killable* whether its filter was
    installed so that no signal interrupts a call that waits for its answer. A profile also says for which
    *machine* it is, and by a digest which *calls* it traps.
    """

    limit: str = ""
    kinds: tuple[str, ...] = ()
    mode: str = "enforce"
    inject: tuple[str, ...] = ()
    memcg: str = ""
    kernel: str = ""
    killable: bool = False
    machine: str = ""
    calls: str = ""

    @classmethod
    def of_fields(cls, fields: Mapping[str, Any], where: str) -> Terms:
        """Read and check terms by name; *where* they stand is for the error.

        Raises: ConfigurationError.
        """
        unknown = sorted(fields.keys() - set(cls._fields))
        if unknown:
            raise ConfigurationError(
                f"{where}: {unknown[0]!r} is not known; known are {', '.join(cls._fields)}"
            )
        given: dict[str, Any] = {
            name: _words(value, name, where)
            if name in ("kinds", "inject")
            else _flag(value, name, where)
            if name == "killable"
            else _text(value, name, where)
            for name, value in fields.items()
        }
        terms = cls(**given)
        try:
            terms.check()
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from error
        return terms

    @classmethod
    def of_labels(cls, *sources: Mapping[str, str] | None) -> Terms | None:
        """Read terms from labels and annotations, of which earlier ones win; ``None`` if none is there.

        Raises: ConfigurationError.
        """
        fields: dict[str, str] = {}
        for source in reversed(sources):
            for label, value in (source or {}).items():
                name = label.removeprefix(PREFIX)
                if label.startswith(PREFIX) and name in _LABELS:
                    fields[name] = value
        return cls.of_fields(fields, f"label or annotation {PREFIX}*") if fields else None

    @classmethod
    def of_metadata(cls, text: str) -> Terms:
        """Read the ``listenerMetadata`` of a profile. Raises: ConfigurationError."""
        where = f"listenerMetadata {text[:80]!r}"
        if not text or len(text) > _LONGEST:
            raise ConfigurationError(
                f"{where}: it says no size, or more than {_LONGEST} bytes; make the profile with "
                "kmem-harness profile"
            )
        if not text.startswith("{"):
            return cls.of_fields({"limit": text}, where)
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"{where} is no JSON object: {error}") from error
        return cls.of_fields(fields, where)

    def metadata(self) -> str:
        """Say them so that :meth:`of_metadata` reads them."""
        said = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._asdict().items()
            if value not in ("", (), False)
        }
        return json.dumps(said, separators=(",", ":"))

    def check(self) -> None:
        """See that they can be kept. Raises: ConfigurationError."""
        limit_text(self.limit or None)
        if self.limit in ("max", "-1"):
            raise ConfigurationError(
                f"limit {self.limit!r} is none: leave it out, or take mode=observe to count alone"
            )
        if self.kinds:
            check_kinds(self.kinds)
        if self.mode not in MODES:
            known = ", ".join(repr(one) for one in MODES)
            raise ConfigurationError(f"mode {self.mode!r} is not known; known are {known}")
        parse_rules(self.inject)
        if self.memcg and (
            not self.memcg.startswith("/") or {"", ".", ".."} & {*self.memcg.split("/")[1:]}
        ):
            raise ConfigurationError(
                f"memcg {self.memcg!r} is no path of a memcg: write /shop.slice, for example"
            )
        if self.kernel:
            check_profile_name(self.kernel)
        if not (self.limit or self.memcg or self.inject or self.mode == "observe"):
            raise ConfigurationError(
                "nothing is limited: give a limit, a memcg that has one, or mode=observe"
            )


def memcg_and_limit(text: str) -> tuple[str, str]:
    """Read ``/shop.slice=32M``. Raises: ConfigurationError."""
    path, equals, limit = text.partition("=")
    if not equals or not path.startswith("/") or not limit:
        raise ConfigurationError(f"--memcg {text!r} is no PATH=SIZE: write /shop.slice=32M")
    Terms(limit=limit, memcg=path).check()
    return path, limit


_LABELS = frozenset(Terms._fields) - {"killable", "machine", "calls"}


def _text(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ConfigurationError(f"{where}: {name} is {value!r}, and no text")
    return str(value)


def _flag(value: Any, name: str, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{where}: {name} is {value!r}; write true or false")
    return value


def _words(value: Any, name: str, where: str) -> tuple[str, ...]:
    """Read a list; in a label, words with commas between them, and rules with spaces."""
    if isinstance(value, str):
        value = value.split() if name == "inject" else value.split(",")
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise ConfigurationError(f"{where}: {name} is {value!r}, and no list of words")
    return tuple(value)
