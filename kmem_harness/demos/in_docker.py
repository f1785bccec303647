"""Make an image for the demo from nothing, whose programs are this machine's own, mounted.

Needs no registry, no compiler and no Python in the image.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kmem_harness.runtimes.labels import OWNER, owner_label

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FOLDER", "demo_image"]

#: A file system in memory, of each container's own.
FOLDER = "/bomb"

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc/ld.so.cache")


@contextmanager
def demo_image(client: Any) -> Iterator[dict[str, Any]]:
    """Give what ``Harness.run`` needs to run this Python in a container; leave no image behind."""
    name = f"kmem-harness-demo:{os.getpid()}"
    # Whose it is: the next session removes what one that was killed has left.
    label = f"LABEL {OWNER}={owner_label()}"
    client.api.import_image_from_data(_empty_image(), repository=name, changes=[label])
    try:
        yield {
            "runtime": "docker",
            "image": name,
            "network_mode": "none",
            "volumes": [f"{path}:{path}:ro" for path in _programs()],
            "tmpfs": {FOLDER: ""},
        }
    finally:
        client.images.remove(name, force=True)


def _programs() -> list[str]:
    """List what Python and a shell need of this machine, no path within another one."""
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    wanted = [
        path for path in (*_SYSTEM, sys.prefix, sys.base_prefix, ours) if os.path.exists(path)
    ]
    wanted = sorted(dict.fromkeys(wanted), key=len)
    return [
        path
        for path in wanted
        if not any(path != other and path.startswith(f"{other}/") for other in wanted)
    ]


def _empty_image() -> bytes:
    """Pack a file system that holds nothing but a directory: an engine takes none that is empty."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        folder = tarfile.TarInfo("tmp")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(folder)
    return packed.getvalue()
