"""Look at a running harness: all its memcgs, live."""

from __future__ import annotations

__all__: list[str] = []
