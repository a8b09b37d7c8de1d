"""The demo's picture: requests that reached the server, against what it permits."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import atan, degrees
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

POINTS = 200
# Okabe and Ito's palette, told apart with any colour vision; dashes and labels repeat the message.
STYLES = ("#D55E00", "-."), ("#E69F00", "--"), ("#0072B2", "-")


def write_plot(
    folder: Path,
    runs: Sequence[tuple[str, Sequence[int]]],
    *,
    rate: int,
    burst: int,
    seconds: float,
    caption: str,
) -> list[Path]:
    """Write demo.svg and demo.png; `runs` are names with the arrival times in nanoseconds."""
    plt.rcParams.update({"svg.hashsalt": "aiolimiter_fast", "svg.fonttype": "none", "font.size": 11})
    figure, axes = plt.subplots(figsize=(9, 5.4), layout="constrained", facecolor="white")
    times = [seconds * point / POINTS for point in range(POINTS + 1)]
    permitted = [burst + rate * time for time in times]
    top = permitted[-1] * 1.7

    axes.fill_between(times, permitted, top, color="#000000", alpha=0.06, linewidth=0)
    axes.plot(times, permitted, color="black", linewidth=1.2, linestyle=":", zorder=3)
    for (name, arrivals), (colour, dashes) in zip(runs, STYLES, strict=True):
        first = arrivals[0]
        counts = [bisect_right(arrivals, first + round(time * 1e9)) for time in times]
        axes.plot(times, counts, color=colour, linestyle=dashes, linewidth=2.2, label=name)

    axes.text(
        seconds * 0.6,
        (burst + rate * seconds * 0.6) + top * 0.02,
        f"permitted: {rate:,} per second, burst {burst}",
        horizontalalignment="center",
        rotation=degrees(atan(rate)),
        rotation_mode="anchor",
        transform_rotates_text=True,
    )

    axes.set_xlim(0, seconds)
    axes.set_ylim(0, top)
    axes.set_xlabel("seconds")
    axes.set_ylabel("requests that reached the server")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.legend(loc="lower right", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(caption, fontsize=8, color="#555555")

    paths = [folder / "demo.svg", folder / "demo.png"]
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=120, metadata={"Software": None})
    plt.close(figure)
    return paths
