"""See that a report can be written where it shall go, and write files whole or not at all."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from kmem_harness.core.errors import ConfigurationError
from kmem_harness.report.libraries import require

__all__ = ["check_report_path", "write_json", "write_whole"]


def check_report_path(path: str) -> None:
    """Say it before anything starts if *path* cannot be a report.

    Raises: ConfigurationError; UnsupportedHostError where a page needs what is not installed.
    """
    if not path.endswith((".json", ".html")):
        message = f"report {path!r}: name a file that ends in .json or in .html"
        raise ConfigurationError(message)
    if path.endswith(".html"):
        require("jinja2")
        require("plotly.offline")
    folder = str(Path(path).parent)
    if not os.access(folder, os.W_OK | os.X_OK):
        message = f"report {path!r}: cannot write in {folder!r}; make the folder first"
        raise ConfigurationError(message)


def write_json(path: str, content: Any, *, indent: int = 2) -> None:
    """Write *content* to *path*, whole or not at all. Raises: OSError."""
    write_whole(path, json.dumps(content, indent=indent) + "\n")


def write_whole(path: str, text: str) -> None:
    """Have *path* hold *text*, or what it held before. Raises: OSError."""
    temporary = Path(f"{path}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise OSError(error.errno, error.strerror, path) from error  # a full disk names no file
