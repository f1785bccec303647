"""``python -m kmem_harness.replay FILE...``."""

from kmem_harness.replay.command import replay

if __name__ == "__main__":
    replay()
