"""The pictures of a run: what its models see, by round, at the end, and one beside the other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from common.config.run import PhantomSource, RunConfig
from server.journal.kept_rounds import KeptRound
from server.journal.tracking import Tracker
from server.measuring.central_eval import CentralResult
from server.measuring.explanation_pictures import (
    draw_averages,
    draw_extremes,
    draw_sites,
    draw_strip,
)
from server.measuring.overlay_files import (
    FOLDER,
    average_file,
    before_after_file,
    extremes_file,
    round_file,
    sites_file,
    strip_file,
)
from server.measuring.overlays import OverlayCase, OverlayMap, OverlayRow, draw_overlays, save_png
from server.report.comparison import when

# What is drawn of a task beside its rounds, and where it lies.
PICTURES = {
    FOLDER: before_after_file,
    "where it looks on average": average_file,
    "best and worst cases": extremes_file,
    "one case over the rounds": strip_file,
    "one case over the sites": sites_file,
}

Seen = tuple[int, tuple[OverlayMap, ...]]  # a round and its maps, one per case


class RunPictures:
    """Draws into the run's folder, and hands the pictures to MLflow."""

    def __init__(
        self,
        config: RunConfig,
        *,
        out: Path,
        tracker: Tracker,
        cases: Mapping[str, Sequence[OverlayCase]],
    ) -> None:
        """Remember what is drawn, and where.

        Args:
            config: The run's.
            out: The run's folder.
            tracker: Open.
            cases: Per task, the pictures shown after every round.
        """
        self._config = config
        self._out = out
        self._tracker = tracker
        self._cases = cases

    def draw_round(self, task: str, server_round: int, maps: tuple[OverlayMap, ...]) -> None:
        """Draw the cases as one round's model saw them; nothing where it has no maps of them."""
        if not maps:
            return
        path = round_file(self._out, task, server_round)
        self._draw(path, task, [(server_round, maps)], what=when(server_round))
        self._tracker.log_picture(path, key=f"{FOLDER}/{task}", step=server_round)

    def draw_model(self, central: CentralResult) -> None:
        """Draw what is shown of the last measured model alone."""
        for task, looks in () if central.explanation is None else central.explanation.tasks.items():
            title = self._title(task, "where it looks on average")
            draw_averages(looks.averages, average_file(self._out, task), title=title)
            if looks.example is not None:
                title = self._title(task, "one case over the sites")
                path, outline = sites_file(self._out, task), self._outline(task)
                draw_sites(looks.example, path, title=title, outline=outline)
        for task, (best, worst) in central.extremes.items():
            title = self._title(task, "best and worst cases")
            path, outline = extremes_file(self._out, task), self._outline(task)
            draw_extremes(best, worst, path, title=title, outline=outline)

    def finish(self, rounds: Sequence[KeptRound]) -> None:
        """Draw what needs all rounds, and hand over what MLflow does not have yet."""
        for task in self._config.tasks:
            seen = [(kept.entry.round, kept.maps[task]) for kept in rounds if kept.maps.get(task)]
            if len(seen) > 1:
                path = before_after_file(self._out, task)
                self._draw(path, task, [seen[0], seen[-1]], what="before and after")
                self._draw_strip(task, seen)
            for file in PICTURES.values():
                if (path := file(self._out, task)).exists():
                    self._tracker.log_file(path, folder=f"{FOLDER}/{task}")

    def files(self) -> dict[str, Path]:
        """Return what each picture beside the rounds' shows → where it lies, if it was drawn."""
        places = {
            f"{what}: {task}": file(self._out, task)
            for task in self._config.tasks
            for what, file in PICTURES.items()
        }
        return {what: path for what, path in places.items() if path.exists()}

    def _draw_strip(self, task: str, seen: Sequence[Seen]) -> None:
        """Draw the first case as each round's model saw it: drift to look at."""
        title = self._title(task, "one case over the rounds")
        path, outline = strip_file(self._out, task), self._outline(task)
        first = {server_round: maps[0] for server_round, maps in seen}
        draw_strip(self._cases[task][0], first, path, title=title, outline=outline)

    def _draw(self, path: Path, task: str, seen: Sequence[Seen], *, what: str) -> None:
        rows = [OverlayRow(title=f"map, {when(n)}", maps=maps) for n, maps in seen]
        title, outline = self._title(task, what), self._outline(task)
        save_png(draw_overlays(self._cases[task], rows, title=title, outline=outline), path)

    def _title(self, task: str, what: str) -> str:
        return f"{self._config.task(task).title}: {what}"

    def _outline(self, task: str) -> str:
        is_drawn = isinstance(self._config.reference[task].source, PhantomSource)
        return "lesion outline (exact)" if is_drawn else "expert outline"
