"""How a run went, as one picture: AUROC, energy in the lesion and loss per task, ε of all."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from server.record.summary import EstimateEntry, Summary, headline

# Okabe & Ito's palette, which colour-blind readers can tell apart, https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
GREY = "#8a929b"
LOSS_COLOURS = {"total": "#1a1e24", "classification": BLUE, "attention": GREEN, "saliency": ORANGE}
ROW_INCHES, WIDTH_INCHES, DPI = 2.5, 11.0, 110


def draw_curves(summary: Summary, path: Path) -> None:
    """Write the picture of a run's rounds as PNG, one row per task; with noise, ε below them."""
    tasks = [task for task in summary.tasks if summary.evaluated(task)]
    has_epsilon = any(entry.epsilon is not None for entry in summary.rounds)
    rows = max(len(tasks), 1) + has_epsilon
    figure = Figure(figsize=(WIDTH_INCHES, ROW_INCHES * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, 3, squeeze=False)
    for row, task in zip(panels, tasks, strict=False):
        evaluated = summary.evaluated(task)
        auroc = [(n, headline(entry.classification, "auroc")) for n, entry in evaluated]
        energy = [(n, entry.localisation.average.get("energy_in_roi")) for n, entry in evaluated]
        _with_interval(row[0], auroc, BLUE)
        _with_interval(row[1], energy, ORANGE)
        _losses(row[2], [(n, entry.loss) for n, entry in evaluated])
        row[0].set_title(f"{summary.tasks[task].title}: AUROC", loc="left", fontsize=10)
        row[1].set_title("map's energy in lesion", loc="left", fontsize=10)
        row[2].set_title("loss on the reference set", loc="left", fontsize=10)
        for axes in row:
            _tidy(axes)
    if has_epsilon:
        _spent(panels[-1][0], summary)
        for axes in panels[-1][1:]:
            axes.set_axis_off()
    for axes in (*panels[max(len(tasks), 1) - 1], panels[-1][0]):
        axes.set_xlabel("round", fontsize=9)
    handles, labels = panels[0][2].get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower right", ncols=4, fontsize=8, frameon=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _with_interval(axes: Axes, points: list[tuple[int, EstimateEntry | None]], colour: str) -> None:
    """Draw values, their 95 % intervals as a band, and chance as a dashed line."""
    known = [(n, e.value, e) for n, e in points if e is not None and e.value is not None]
    axes.plot([n for n, _, _ in known], [v for _, v, _ in known], "o-", color=colour, markersize=3)
    bounds = [(n, e.low, e.high) for n, _, e in known if e.low is not None and e.high is not None]
    axes.fill_between(
        [n for n, _, _ in bounds],
        [low for _, low, _ in bounds],
        [high for _, _, high in bounds],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )
    chance = [(n, e.chance) for n, _, e in known if e.chance is not None]
    axes.plot([n for n, _ in chance], [c for _, c in chance], "--", color=GREY, linewidth=1)
    if chance:
        axes.annotate(
            "chance",
            chance[-1],
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=GREY,
        )
    axes.set_ylim(0.0, 1.02)


def _losses(axes: Axes, points: list[tuple[int, dict[str, float | None]]]) -> None:
    for part, colour in LOSS_COLOURS.items():
        known = [(n, value) for n, loss in points if (value := loss.get(part)) is not None]
        if known:
            numbers, values = zip(*known, strict=True)
            axes.plot(numbers, values, "o-", color=colour, markersize=3, label=part)
    axes.set_ylim(bottom=0.0)


def _spent(axes: Axes, summary: Summary) -> None:
    """Draw the largest ε that any site has reported, of all its runs and of this one."""
    rounds = summary.rounds
    every = [(entry.round, entry.epsilon) for entry in rounds if entry.epsilon is not None]
    alone = [(entry.round, entry.epsilon_run) for entry in rounds if entry.epsilon_run is not None]
    for points, colour, label in ((every, PINK, "ε, all runs"), (alone, GREY, "ε, this run")):
        if points:
            numbers, values = zip(*points, strict=True)
            axes.plot(numbers, values, "o-", color=colour, markersize=3, label=label)
    axes.set_title(epsilon_title(summary), loc="left", fontsize=10)
    axes.set_ylim(bottom=0.0)
    axes.legend(fontsize=8, frameon=False)
    _tidy(axes)


def epsilon_title(summary: Summary) -> str:
    """Return what the curve of ε is of, with whom it protects and at which δ."""
    about = summary.privacy
    whose = "" if about is None else f", unit {about.unit}, δ = {about.delta:g}"
    return f"largest ε over sites{whose}"


def _tidy(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e4e7eb", linewidth=0.6)
    axes.tick_params(labelsize=8, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
