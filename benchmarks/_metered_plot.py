"""The picture of metered.py: what each client sent in each half second, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

BIN = 0.5  # seconds
# Of Okabe and Ito's palette, told apart with any colour vision; hatching repeats the message.
ADMITTED, REFUSED, OUTAGE = "#0072B2", "#E69F00", "#BBBBBB"


@dataclass(frozen=True)
class Panel:
    """One client in one scenario: instants in seconds, and what is said of it."""

    admitted: Sequence[float]
    refused: Sequence[float]
    note: str


@dataclass(frozen=True)
class Strip:
    """One scenario: its panels in the order of the clients, and what the server permits."""

    title: str
    seconds: float
    quota: Sequence[tuple[float, float]]  # from when on, requests per second
    outages: Sequence[tuple[float, float]]
    panels: Sequence[Panel]


def write_plot(folder: Path, clients: Sequence[str], strips: Sequence[Strip], caption: str) -> list[Path]:
    """Write metered.svg and metered.png."""
    plt.rcParams.update(
        {"svg.hashsalt": "aiolimiter_fast", "svg.fonttype": "none", "font.size": 10, "hatch.linewidth": 0.6}
    )
    figure, grid = plt.subplots(
        len(strips),
        len(clients),
        figsize=(12, 1.4 + 1.9 * len(strips)),
        sharex="row",
        sharey="row",
        squeeze=False,
        layout="constrained",
        facecolor="white",
    )
    for row, strip in zip(grid, strips, strict=True):
        for axes, panel in zip(row, strip.panels, strict=True):
            draw(axes, strip, panel)
        row[0].set_ylabel(f"{strip.title}\n", fontweight="bold")
    for axes, client in zip(grid[0], clients, strict=True):
        axes.annotate(
            client, (0.5, 1), (0, 24), xycoords="axes fraction", textcoords="offset points",
            horizontalalignment="center", fontsize=12, fontweight="bold",
        )  # fmt: skip
    for axes in grid[-1]:
        axes.set_xlabel("seconds")
    keys = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(keys.values(), keys.keys(), loc="outside upper center", ncols=len(keys), frameon=False, fontsize=11)
    figure.supylabel("requests that reached the server, per half second", fontsize=11)
    figure.supxlabel(caption, fontsize=8, color="#555555")
    paths = [folder / "metered.svg", folder / "metered.png"]
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=120, metadata={"Software": None})
    plt.close(figure)
    return paths


def draw(axes: Axes, strip: Strip, panel: Panel) -> None:
    """Bars of half seconds, those refused upon those admitted, and the quota as a line."""
    bins = ceil(strip.seconds / BIN)
    at = [number * BIN for number in range(bins)]
    admitted = counts(panel.admitted, bins)
    refused = counts(panel.refused, bins)
    for begin, end in strip.outages:
        axes.axvspan(begin, end, color=OUTAGE, alpha=0.35, linewidth=0, label="outage")
    axes.bar(at, admitted, BIN, align="edge", color=ADMITTED, linewidth=0, label="admitted")
    axes.bar(
        at, refused, BIN, bottom=admitted, align="edge", color=REFUSED, edgecolor="#7A4B00", hatch="////", linewidth=0,
        label="refused (429, 503)",
    )  # fmt: skip
    times = [when for when, _ in strip.quota]
    rates = [rate * BIN for _, rate in strip.quota]
    axes.step([*times, strip.seconds], [*rates, rates[-1]], where="post", color="black", linewidth=1.4, label="quota")
    axes.set_title(panel.note, fontsize=9, loc="left", color="#333333", pad=4)
    axes.set_xlim(0, strip.seconds)
    axes.set_xticks(range(0, int(strip.seconds) + 1, 5))
    axes.yaxis.set_major_locator(MultipleLocator(25))
    axes.spines[["top", "right"]].set_visible(False)


def counts(instants: Sequence[float], bins: int) -> list[int]:
    """How many there are in each half second."""
    found = [0] * bins
    for instant in instants:
        if 0 <= instant < bins * BIN:
            found[int(instant / BIN)] += 1
    return found
