"""Draw a soak: latency, calls, memory and descriptors over its time. Knows what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.soak.verdict import minutes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.soak.run import Soak

__all__ = ["draw"]

_SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_COLOURS = {"p50": "#7fb2dd", "p99": "#2a6fb0", "p99.9": "#d98a3d"}
_MEGABYTE = 1 << 20


def draw(soak: Soak, stretch: float, path: Path) -> None:
    """Write the picture as SVG to *path*."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "kmem-harness"
    from matplotlib import pyplot as plt

    windows = minutes(soak.windows, stretch)
    times = [window.began / 60 for window in windows]
    canvas, (latency, rate, memory) = plt.subplots(3, 1, figsize=(9, 6), sharex=True)
    for name, share in _SHARES.items():
        values = [window.percentile_us(share) or float("nan") for window in windows]
        latency.plot(times, values, label=name, color=_COLOURS[name], linewidth=1)
    latency.set_yscale("log")
    latency.set_title("one supervised call, microseconds", fontsize=8, loc="left")
    latency.legend(fontsize=7, ncols=3, frameon=False)
    rate.plot(times, [window.calls / stretch for window in windows], color="#2a6fb0", linewidth=1)
    rate.set_ylim(bottom=0)
    rate.set_title("calls a second, both boxes", fontsize=8, loc="left")
    seconds = [sample.seconds / 60 for sample in soak.samples]
    resident = [sample.resident / _MEGABYTE for sample in soak.samples]
    memory.plot(seconds, resident, color="#2a6fb0", linewidth=1, label="memory, MB")
    memory.plot(
        seconds,
        [sample.descriptors for sample in soak.samples],
        color="#d98a3d",
        linewidth=1,
        label="descriptors",
    )
    memory.set_ylim(bottom=0)
    memory.set_title("the controller", fontsize=8, loc="left")
    memory.legend(fontsize=7, ncols=2, frameon=False)
    memory.set_xlabel("minutes", fontsize=8)
    for panel in (latency, rate, memory):
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    canvas.suptitle(
        f"{soak.calls / 1e6:.1f} million supervised calls, {soak.passing} boxes that came and went",
        fontsize=9,
    )
    canvas.tight_layout()
    canvas.savefig(path, format="svg", metadata={"Date": None})
    plt.close(canvas)
