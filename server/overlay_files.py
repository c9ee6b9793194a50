"""Where the pictures of a run lie in its folder."""

from pathlib import Path

FOLDER = "overlays"


def round_file(out: Path, task: str, server_round: int) -> Path:
    """Return where a task's picture of one round lies."""
    return out / FOLDER / task / f"round_{server_round:03d}.png"


def round_files(out: Path, task: str) -> dict[int, Path]:
    """Return the pictures of a task that exist, by round, in order."""
    files = {int(f.stem.partition("_")[2]): f for f in (out / FOLDER / task).glob("round_*.png")}
    return dict(sorted(files.items()))


def before_after_file(out: Path, task: str) -> Path:
    """Return where a task's comparison of the first and the last model lies."""
    return out / FOLDER / task / "before_after.png"
