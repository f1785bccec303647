"""The images of the matrix: the tests' own programs in the shapes that images come in.

Knows engines; imports nothing of the harness.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from containers.build import BuildError, build_image, busybox_root
from tests.support.engine import cannot_run
from tests.support.programs import Programs, find_compiler, why_no_compiler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

__all__ = ["BUSYBOX", "HEALTH", "SCRATCH", "SHELL_FORM", "matrix_images"]

BUSYBOX = "kmem-matrix-busybox"
SCRATCH = "kmem-matrix-scratch"
SHELL_FORM = "kmem-matrix-shell-form"
HEALTH = "kmem-matrix-health"

_PROGRAMS = ["fork_pause", "fork_wait", "bomb_tree", "bomb_threads", "every_call"]
_SHELL = "FROM scratch\nCOPY root /\nENV PATH=/bin\n"
_DOCKERFILES = {
    BUSYBOX: f'{_SHELL}CMD ["sh"]\n',
    SCRATCH: (
        'FROM scratch\nCOPY root/bin/fork_pause /\nENTRYPOINT ["/fork_pause"]\nCMD ["200", "20"]\n'
    ),
    SHELL_FORM: f"{_SHELL}USER 1000:1000\nWORKDIR /tmp\nCMD pwd && id -u && exec fork_pause 200 20\n",
    HEALTH: (
        f"{_SHELL}HEALTHCHECK --interval=1s --timeout=10s --retries=100 CMD fork_pause 200\n"
        'CMD ["sleep", "60"]\n'
    ),
}


@contextmanager
def matrix_images(engine: Engine) -> Iterator[None]:
    """Build them all on *engine*; they are gone afterwards."""
    compiler = find_compiler()
    if compiler is None:
        cannot_run(why_no_compiler())
    scratch = Path(tempfile.mkdtemp(prefix="kmem-matrix-"))
    try:
        try:
            root = busybox_root(scratch / "root")
        except BuildError as error:
            cannot_run(str(error))
        programs = Programs(scratch, compiler)
        for name in _PROGRAMS:
            shutil.copy(programs[name], root / "bin" / name)
        for tag, dockerfile in _DOCKERFILES.items():
            build_image(engine.client, tag, dockerfile, {"root": root})
    finally:
        shutil.rmtree(scratch)
    try:
        yield
    finally:
        for tag in _DOCKERFILES:
            engine.client.images.remove(tag, force=True)
