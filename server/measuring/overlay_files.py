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


def average_file(out: Path, task: str) -> Path:
    """Return where the last measured model's average maps of a task lie, one per class."""
    return out / FOLDER / task / "average.png"


def extremes_file(out: Path, task: str) -> Path:
    """Return where the cases lie in which the last model looks best and worst."""
    return out / FOLDER / task / "best_and_worst.png"


def strip_file(out: Path, task: str) -> Path:
    """Return where one case of a task lies as each round's model saw it."""
    return out / FOLDER / task / "one_case.png"


def sites_file(out: Path, task: str) -> Path:
    """Return where one case of a task lies as the sites' own models see it."""
    return out / FOLDER / task / "sites.png"


def before_after_file(out: Path, task: str) -> Path:
    """Return where a task's comparison of the first and the last model lies."""
    return out / FOLDER / task / "before_after.png"
