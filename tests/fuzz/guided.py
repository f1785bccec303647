"""Have atheris look for inputs that reach new code: NAME CORPUS [LIBFUZZER ARGUMENT...].

Needs: atheris, which is no dependency of ours: ``pip install atheris``.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress


def main() -> None:
    """Feed one reader; an error that is not promised ends this, with the input in a file."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["kmem_harness"]):
        readers = importlib.import_module("tests.fuzz.readers").READERS
    name, corpus, *arguments = sys.argv[1:]
    reader = readers[name]
    with reader.open() as read:

        def take(data: bytes) -> None:
            with suppress(*reader.errors):
                read(data)

        atheris.Setup([sys.argv[0], *arguments, "-max_len=4096", "-timeout=5", corpus], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
