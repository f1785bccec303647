"""Find the program a command names, before anything starts."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from kmem_harness.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CommandNotExecutableError", "CommandNotFoundError", "check_command"]


class CommandNotFoundError(ConfigurationError):
    """There is no such program. A shell would exit with 127."""

    exit_code = 127


class CommandNotExecutableError(ConfigurationError):
    """The program is there and cannot be executed. A shell would exit with 126."""

    exit_code = 126


def check_command(
    command: Sequence[str], env: Mapping[str, str] | None = None, cwd: str | None = None
) -> tuple[str, ...]:
    """See that *command* names a program that can be executed; give it back as a tuple.

    Raises: ConfigurationError if it is no sequence of text, CommandNotFoundError,
    CommandNotExecutableError.
    """
    if isinstance(command, str) or not command:
        message = (
            f"command {command!r} is not a list of words; "
            'give ["sh", "-c", "..."] to have a shell split it'
        )
        raise ConfigurationError(message)
    try:
        words = tuple(os.fspath(word) for word in command)
    except TypeError as error:
        message = f"command {command!r} holds what is no text: {error}; give every word as text"
        raise ConfigurationError(message) from error
    if not all(isinstance(word, str) for word in words):
        message = f"command {command!r} holds bytes; give every word as text"
        raise ConfigurationError(message)
    if any("\0" in word for word in words):
        message = f"command {words!r} holds a NUL byte, which no argument can"
        raise ConfigurationError(message)
    if cwd is not None and not os.path.isdir(cwd):
        message = f"cwd {cwd!r} is not a directory; make it, or name another"
        raise ConfigurationError(message)
    _find(words[0], os.environ if env is None else env, cwd or ".")
    return words


def _find(program: str, env: Mapping[str, str], cwd: str) -> None:
    if "/" in program:
        candidates = [os.path.join(cwd, program)]
    else:
        path = env.get("PATH", os.defpath)
        candidates = [os.path.join(folder or cwd, program) for folder in path.split(":")]
    seen = None
    for candidate in candidates:
        if os.path.isdir(candidate):
            seen = seen or (candidate, os.strerror(errno.EISDIR))
        elif os.path.exists(candidate):
            if os.access(candidate, os.X_OK):
                return
            seen = (candidate, os.strerror(errno.EACCES))
    if seen is not None and ("/" in program or not os.path.isdir(seen[0])):
        message = (
            f"command {program!r} cannot be executed: {seen[0]}: {seen[1]}; "
            "name a program, or make the file executable (chmod +x)"
        )
        raise CommandNotExecutableError(message)
    where = "no such file" if "/" in program else "it is in no directory of PATH"
    message = f"command {program!r} was not found: {where}; check the spelling or give its path"
    raise CommandNotFoundError(message)
