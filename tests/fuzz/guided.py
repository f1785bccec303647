"""Have atheris, where it is installed, look for inputs that reach new code: NAME [LIBFUZZER ARGUMENT...]."""

from __future__ import annotations

import importlib
import sys
import tempfile
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Feed one reader; an error that is not promised ends this, with the input in a file."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["kmem_harness"]):
        readers = importlib.import_module("tests.fuzz.readers").READERS
    reader = readers[sys.argv[1]]
    with tempfile.TemporaryDirectory() as corpus, reader.open() as read:
        for number, example in enumerate(reader.examples):
            Path(corpus, str(number)).write_bytes(example)

        def take(data: bytes) -> None:
            with suppress(*reader.errors):
                read(data)

        atheris.Setup([sys.argv[0], *sys.argv[2:], "-max_len=4096", "-timeout=5", corpus], take)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
