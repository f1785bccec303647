"""Carry a container's input and output between its engine and us. Knows nothing of boxes."""

from __future__ import annotations

import os
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from docker.utils.socket import STDERR, STDOUT, frames_iter

if TYPE_CHECKING:
    from kmem_harness.runtimes.spec import BoxSpec

__all__ = ["Streams"]

_CHUNK = 65536


class Streams:
    """One attached container. ``None`` for a stream leaves it with the engine."""

    def __init__(self, api: Any, container_id: str, spec: BoxSpec, *, tty: bool) -> None:
        """Attach as *spec* says, before the container starts."""
        self.stdin: Any = None
        self.stdout: Any = None
        self.stderr: Any = None
        self._ours: list[Any] = []  # files to be closed at the end of the output
        wants = {"stdin": spec.stdin, "stdout": spec.stdout, "stderr": spec.stderr}
        wants = {name: want for name, want in wants.items() if want is not None}
        self._threads: list[threading.Thread] = []
        self.any = bool(wants)
        if not wants:
            return
        attached = api.attach_socket(
            container_id, params={**dict.fromkeys(wants, 1), "stream": 1, "logs": 0}
        )
        sinks = {
            STDOUT: self._sink("stdout", spec.stdout),
            STDERR: self._sink("stderr", spec.stderr),
        }
        if spec.stderr == subprocess.STDOUT or tty:
            sinks[STDERR] = sinks[STDOUT]
        self._begin(lambda: self._pump_out(attached, sinks, tty=tty))
        if spec.stdin is not None and spec.stdin != subprocess.DEVNULL:
            source = self._source(spec.stdin)
            self._begin(lambda: self._pump_in(attached, source), watched=False)

    def drain(self, timeout: float | None = None) -> None:
        """Wait for the end of the output."""
        for thread in self._threads:
            thread.join(timeout)

    def communicate(self, timeout: float | None = None) -> tuple[Any, Any]:
        """Read what was asked for as a pipe to its end. Raises: TimeoutError."""
        read: dict[str, bytes | None] = {"stdout": None, "stderr": None}

        def take(name: str, file: Any) -> None:
            read[name] = file.read()

        readers = []
        if self.stdin is not None:
            self.stdin.close()
        for name in read:
            file = getattr(self, name)
            if file is not None:
                reader = threading.Thread(target=take, args=(name, file), daemon=True)
                reader.start()
                readers.append(reader)
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():
                message = f"the container still writes after {timeout} s"
                raise TimeoutError(message)
        return read["stdout"], read["stderr"]

    def close(self) -> None:
        """Close the ends that were ours to read and write."""
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                with suppress(OSError):
                    file.close()

    def _begin(self, work: Any, *, watched: bool = True) -> None:
        thread = threading.Thread(target=work, name="kmem-harness-streams", daemon=True)
        thread.start()
        if watched:  # input has no end that we could wait for
            self._threads.append(thread)

    def _sink(self, name: str, want: Any) -> int | None:
        if want in (None, subprocess.DEVNULL, subprocess.STDOUT):
            return None
        if want == subprocess.PIPE:
            reading, writing = os.pipe()
            setattr(self, name, os.fdopen(reading, "rb"))
        else:
            writing = os.dup(want if isinstance(want, int) else want.fileno())
        self._ours.append(writing)
        return writing

    def _source(self, want: Any) -> int:
        if want == subprocess.PIPE:
            reading, writing = os.pipe()
            self.stdin = os.fdopen(writing, "wb", buffering=0)
            return reading
        return os.dup(want if isinstance(want, int) else want.fileno())

    def _pump_out(self, attached: Any, sinks: dict[int, int | None], *, tty: bool) -> None:
        try:
            for stream, data in frames_iter(attached, tty):
                sink = sinks.get(stream)
                if sink is not None and not _write(sink, data):
                    sinks[stream] = None  # nobody reads any more: the container need not know
        except (OSError, ValueError):  # the engine is gone
            pass
        finally:
            for fd in self._ours:
                with suppress(OSError):
                    os.close(fd)
            # Its response first: one whose socket is closed already complains when it is collected.
            response = getattr(attached, "_response", None)
            for each in (response, attached):
                with suppress(OSError):
                    if each is not None:
                        each.close()

    @staticmethod
    def _pump_in(attached: Any, source: int) -> None:
        connection = getattr(attached, "_sock", attached)
        with suppress(OSError):
            while data := os.read(source, _CHUNK):
                connection.sendall(data)
            connection.shutdown(1)
        os.close(source)


def _write(fd: int, data: bytes) -> bool:
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        return False
    return True
