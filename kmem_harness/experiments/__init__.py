"""Find out what services need: predictions from recordings, sweeps, who disturbs whom."""

from __future__ import annotations

__all__: list[str] = []
