"""The progress bar of a preparation, for the person at the terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class ReadingBar:
    """One bar over the pictures that are being read."""

    def __init__(self, console: Console, *, name: str) -> None:
        """Show on a console; use as a context manager."""
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
        )
        self._bar = self._bars.add_task(f"pictures  {name}", total=None)

    def __enter__(self) -> "ReadingBar":
        """Start drawing."""
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the finished bar on the screen."""
        self._bars.stop()

    def __call__(self, done: int, total: int) -> None:
        """Take in how far it is."""
        self._bars.update(self._bar, completed=done, total=total)
