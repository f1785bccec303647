"""Take unit names apart: prefix, instance, type, and what a name implies."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kmem_harness.core.errors import ConfigurationError

__all__ = ["UNIT_TYPES", "UnitName", "completed", "escape", "parse_name", "slice_path", "unescape"]

UNIT_TYPES = (
    *("service", "slice", "target", "socket", "timer", "path", "mount", "automount"),
    *("swap", "device", "scope"),
)
_NAME = re.compile(
    r"(?P<prefix>[A-Za-z0-9:_.\\-]+)(?P<at>@(?P<instance>[A-Za-z0-9:_.\\@-]*))?"
    rf"\.(?P<type>{'|'.join(UNIT_TYPES)})",
    re.ASCII,
)
_LONGEST = 255
_PLAIN = re.compile(r"[A-Za-z0-9:_.]", re.ASCII)
_STEM = re.compile(r"[A-Za-z0-9:_.\\@-]+", re.ASCII)
_ESCAPED = re.compile(rb"\\x([0-9a-fA-F]{2})|-")


@dataclass(frozen=True)
class UnitName:
    """A unit's name. ``instance`` is ``None`` without an ``@``, and empty for a template."""

    text: str
    prefix: str
    instance: str | None
    type: str

    def __str__(self) -> str:
        """Give the name as written."""
        return self.text

    @property
    def is_template(self) -> bool:
        """Whether it needs an instance to become a unit."""
        return self.instance == ""

    @property
    def template(self) -> str | None:
        """The template of an instance, such as ``foo@.service``."""
        return f"{self.prefix}@.{self.type}" if self.instance else None

    def with_prefix(self, prefix: str) -> UnitName:
        """Give the name with another prefix."""
        at = "" if self.instance is None else f"@{self.instance}"
        return UnitName(f"{prefix}{at}.{self.type}", prefix, self.instance, self.type)

    def drop_in_folders(self) -> list[str]:
        """Name the folders whose drop-ins apply, the most specific first.

        Shape: ``a-b@i.service.d``, ``a-b@.service.d``, ``a-@i.service.d``, .., ``service.d``.
        """
        found = []
        prefixes = [self.prefix]
        prefix = self.prefix.rstrip("-")
        while "-" in prefix:
            prefix = prefix[: prefix.rindex("-")]
            prefixes.append(f"{prefix}-")
            prefix = prefix.rstrip("-")
        for one in prefixes:
            name = self.with_prefix(one)
            found.append(f"{name}.d")
            if name.template:
                found.append(f"{name.template}.d")
        return [*found, f"{self.type}.d"]


def parse_name(text: str) -> UnitName:
    """Take *text* apart. Raises: ConfigurationError if it is no unit's name."""
    match = _NAME.fullmatch(text)
    if match is None or len(text) > _LONGEST:
        message = (
            f"{text!r} is not a unit name; a name is letters, digits and ':-_.\\@' with a suffix "
            "such as .service, .slice or .target"
        )
        raise ConfigurationError(message)
    return UnitName(
        text, match["prefix"], match["instance"] if match["at"] else None, match["type"]
    )


def slice_path(name: str) -> str:
    """Give the memcg of a slice: ``a-b.slice`` stands in ``/a.slice/a-b.slice``.

    Raises: ConfigurationError for a name with an empty part.
    """
    if name == "-.slice":
        return "/"
    parsed = parse_name(name)
    parts = parsed.prefix.split("-")
    if parsed.type != "slice" or parsed.instance is not None or not all(parts):
        message = (
            f"{name!r} is not a slice's name; one is words joined by single '-', such as "
            "web.slice or web-front.slice (below web.slice)"
        )
        raise ConfigurationError(message)
    return "".join(f"/{'-'.join(parts[:count])}.slice" for count in range(1, len(parts) + 1))


def completed(text: str) -> str:
    """Give the name that a person means: without a unit's suffix it is a service's."""
    if text.rpartition(".")[2] in UNIT_TYPES or not _STEM.fullmatch(text):
        return text
    return f"{text}.service"


def unescape(text: str, *, path: bool = False) -> str:
    """Undo systemd-escape: a ``-`` is a slash, and bytes are written in hexadecimal."""
    raw = _ESCAPED.sub(
        lambda match: bytes((int(match[1], 16),)) if match[1] else b"/", text.encode()
    ).decode("utf-8", "replace")
    return f"/{raw.strip('/')}" if path else raw


def escape(text: str) -> str:
    """Write *text* so that it can be part of a unit's name, as systemd-escape does."""
    found = []
    for at, byte in enumerate(text.encode()):
        char = chr(byte)
        if char == "/":
            found.append("-")
        elif not _PLAIN.match(char) or (at == 0 and char == "."):
            found.append(f"\\x{byte:02x}")
        else:
            found.append(char)
    return "".join(found)
