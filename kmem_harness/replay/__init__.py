"""Play traces of a real kernel on the emulated controller, and say where the two differ."""

from kmem_harness.replay.engine import Result, replay_file

__all__ = ["Result", "replay_file"]
