"""What is drawn of a run reaches MLflow and the list of its files."""

from pathlib import Path

from common.config.reading import load_config
from server.journal.run_pictures import PICTURES, RunPictures

DEMO = Path(__file__).parents[3] / "configs/experiments/demo.yaml"


class Kept:
    """Takes the place of MLflow."""

    def __init__(self) -> None:
        self.files: list[tuple[str, str]] = []

    def log_file(self, path: Path, *, folder: str = "") -> None:
        self.files.append((path.name, folder))


def test_every_kind_of_picture_is_listed_and_handed_over_by_task(tmp_path: Path) -> None:
    config, kept = load_config(DEMO, []).run, Kept()
    for task in ("chestx", "retina"):
        for file in PICTURES.values():
            file(tmp_path, task).parent.mkdir(parents=True, exist_ok=True)
            file(tmp_path, task).write_bytes(b"drawn")
    pictures = RunPictures(config, out=tmp_path, tracker=kept, cases={})

    pictures.finish([])

    names = ("before_after", "average", "best_and_worst", "one_case", "sites")
    assert sorted(kept.files) == sorted(
        (f"{name}.png", f"overlays/{task}") for name in names for task in ("chestx", "retina")
    )
    listed = pictures.files()  # of pathoscan nothing was drawn
    assert list(listed)[:2] == ["overlays: chestx", "where it looks on average: chestx"]
    assert len(listed) == 2 * len(names)
