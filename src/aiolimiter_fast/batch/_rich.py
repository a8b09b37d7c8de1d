"""A progress bar by rich; loaded where somebody asks for one."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Display

from aiolimiter_fast.batch._progress import Progress

__all__ = ["Bar"]


class Bar:
    """Show the progress of one batch on standard error's terminal, or nothing where there is none."""

    def __init__(self, display: Display | None = None) -> None:
        self.display = display or Display(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), transient=False
        )
        self.task = self.display.add_task("")
        self.display.start()

    def __call__(self, progress: Progress) -> None:
        text = f"{progress.rate:.1f}/s"
        if progress.failed:
            text += f", {progress.failed} failed"
        if progress.time_left is not None:
            text += f", {progress.time_left:.0f} s left"
        self.display.update(
            self.task, total=progress.total, completed=progress.done + progress.failed, description=text
        )

    def close(self) -> None:
        self.display.stop()
