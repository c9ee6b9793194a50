"""What goes with what: ways of protecting updates against strategies, aggregations and the rest.

The table is data. `fovea modes` and docs/protection.md show it, :func:`conflicts` judges a run by
it, so that what is promised and what is refused cannot differ. Light.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from common.config.run import RunConfig
from common.errors import ConfigError
from common.registry import unknown_name
from common.secure_sum.measures import LOSS_PREFIX, metric_names

Mode = Literal["plain", "secure", "dp", "both"]
Says = Literal["yes", "no", "note"]  # note: yes, and the reason says what to know about it

MODES: tuple[Mode, ...] = get_args(Mode)
MODE_WORDS: Mapping[Mode, str] = {
    "plain": "neither noise nor masks",
    "secure": "secure sums (secure_aggregation.enabled)",
    "dp": "differential privacy (privacy.enabled)",
    "both": "differential privacy under secure sums (privacy.enabled, secure_aggregation.enabled)",
}


@dataclass(frozen=True)
class Cell:
    """Whether one thing goes with one mode."""

    says: Says
    reason: str = ""  # "" for a plain yes


@dataclass(frozen=True)
class Row:
    """One thing a run may want, against every mode."""

    about: str
    what: str
    cells: tuple[Cell, Cell, Cell, Cell]  # in the order of MODES
    key: str | None = None  # the dotted key that chooses it; None: nothing in the run does
    value: str | None = None  # of that key
    remedy: str = ""  # where a cell says no

    def cell(self, mode: Mode) -> Cell:
        """Return what this row says of a mode."""
        return self.cells[MODES.index(mode)]


YES = Cell("yes")
COUNTS = Cell(
    "no",
    "its weights are the sites' exact numbers of pictures: the model would depend on them "
    "without noise",
)
EACH_UPDATE = Cell("no", "it must see each site's update, and the sum hides them")
WHOLE_NUMBERS = Cell("no", "masked sums are whole numbers with a scale of their own")
IN_THE_SUM = Cell("no", "what a site measured is in the sum only")
NO_NOISE = Cell("note", "measured without noise: not covered by ε")
SUM_WITHOUT_NOISE = Cell(
    "note", "as a sum over the sites; measured without noise: not covered by ε"
)
SUMMED = Cell("note", "as a sum over the sites only")
NOT_RELEASED = Cell("no", "the training loss is computed on training patients without noise")
ONE_PROCESS = Cell("no", "draws and noise are of one process: a site with several refuses")
ROUND_GOES_ON = Cell(
    "note", "a begun round keeps its keys; a site that lost its answer is left out"
)

ROWS: tuple[Row, ...] = (
    *(
        Row("Strategy", f"`{name}`", (YES, YES, YES, YES), "federation.strategy", name)
        for name in ("fedavg", "fedprox", "fedavgm", "fedadam")
    ),
    Row(
        "Aggregation",
        "`weighted-mean`",
        (YES, YES, COUNTS, COUNTS),
        "federation.aggregation",
        "weighted-mean",
        "Set federation.aggregation to uniform-mean.",
    ),
    Row(
        "Aggregation",
        "`uniform-mean`",
        (YES, YES, YES, YES),
        "federation.aggregation",
        "uniform-mean",
    ),
    *(
        Row(
            "Aggregation",
            f"`{name}`",
            (YES, EACH_UPDATE, YES, EACH_UPDATE),
            "federation.aggregation",
            name,
            "Set federation.aggregation to uniform-mean.",
        )
        for name in ("median", "trimmed-mean")
    ),
    Row(
        "Update precision",
        "`float32`",
        (YES, YES, YES, YES),
        "federation.update_precision",
        "float32",
    ),
    *(
        Row(
            "Update precision",
            f"`{name}`",
            (YES, WHOLE_NUMBERS, YES, WHOLE_NUMBERS),
            "federation.update_precision",
            name,
            "Set federation.update_precision to float32.",
        )
        for name in ("bfloat16", "int8")
    ),
    Row("Per site", "training loss", (YES, SUMMED, NOT_RELEASED, NOT_RELEASED)),
    Row("Per site", "federated evaluation", (YES, SUMMED, NO_NOISE, SUM_WITHOUT_NOISE)),
    Row("At a site", "local layers and heads", (YES, YES, YES, YES)),
    Row("At a site", "several GPUs", (YES, YES, ONE_PROCESS, ONE_PROCESS)),
    Row("Shown", "central accuracy", (YES, YES, YES, YES)),
    Row("Shown", "central localisation", (YES, YES, YES, YES)),
    Row("Shown", "each site's own metric", (YES, IN_THE_SUM, NO_NOISE, IN_THE_SUM)),
    Row("Shown", "sites above the floor", (YES, YES, NO_NOISE, NO_NOISE)),
    Row("Run", "`fovea resume`", (YES, ROUND_GOES_ON, YES, ROUND_GOES_ON)),
)


def mode_of(config: RunConfig) -> Mode:
    """Return how a run protects its updates."""
    if config.secure_aggregation.enabled:
        return "both" if config.privacy.enabled else "secure"
    return "dp" if config.privacy.enabled else "plain"


def conflicts(config: RunConfig) -> list[str]:
    """Return what in a run does not go together: which keys, why, and the remedy; [] when all does.

    Names that no table knows are not judged here: the registries refuse them.
    """
    return [*_against_the_table(config), *_too_few_sites(config), *_unknown_floor(config)]


def refuse_conflicts(config: RunConfig) -> None:
    """Raise one ConfigError that names everything in a run that does not go together."""
    found = conflicts(config)
    if len(found) == 1:
        raise ConfigError(found[0])
    if found:
        raise ConfigError(
            f"{len(found)} things in this run do not go together; `fovea modes` shows what does.\n"
            + "\n".join(f"- {sentence}" for sentence in found)
        )


def _against_the_table(config: RunConfig) -> Iterator[str]:
    mode = mode_of(config)
    for row in ROWS:
        cell = row.cell(mode)
        if row.key is None or cell.says != "no" or _value(config, row.key) != row.value:
            continue
        yield (
            f"{row.key}: {row.value} does not go with {MODE_WORDS[mode]}: {cell.reason}. "
            f"{row.remedy}"
        )


def _too_few_sites(config: RunConfig) -> Iterator[str]:
    least, sites = config.secure_aggregation.min_group, len(config.sites)
    if config.secure_aggregation.enabled and sites < least:
        yield (
            f"secure_aggregation.min_group is {least}, the run has {sites} sites: a sum over fewer "
            "tells too much of each. Name more sites, or set secure_aggregation.enabled to false."
        )


def _unknown_floor(config: RunConfig) -> Iterator[str]:
    if config.federation.site_floor and not config.evaluation.federated:
        yield (
            "federation.site_floor asks what sites measure, evaluation.federated: false says that "
            "they measure nothing. Set evaluation.federated to true, or federation.site_floor to "
            "{}."
        )
    known = {name for task in config.tasks for name in metric_names(config, task)}
    known = {name for name in known if not name.startswith(LOSS_PREFIX)}  # less is better
    for metric in config.federation.site_floor:
        if metric not in known:
            yield "federation.site_floor: " + unknown_name(
                "metric", metric, dict.fromkeys(sorted(known))
            )


def _value(config: RunConfig, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def table_markdown() -> str:
    """Return the table as docs/protection.md shows it, every reason once below it."""
    reasons = numbered_reasons()
    lines = ["| | | " + " | ".join(MODES) + " |", "| --- | --- |" + " --- |" * len(MODES)]
    said = ""
    for row in ROWS:
        cells = " | ".join(cell_text(row.cell(mode), reasons) for mode in MODES)
        lines.append(f"| {'' if row.about == said else row.about} | {row.what} | {cells} |")
        said = row.about
    notes = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    return "\n".join(lines) + "\n\n" + notes + "\n"


def cell_text(cell: Cell, reasons: Mapping[str, int]) -> str:
    """Return a cell with the number of its reason: ``yes``, ``yes (3)`` or ``no (1)``."""
    word = "no" if cell.says == "no" else "yes"
    return f"{word} ({reasons[cell.reason]})" if cell.reason else word


def numbered_reasons() -> dict[str, int]:
    """Return every reason of the table with its number, in the order of the table."""
    found = dict.fromkeys(cell.reason for row in ROWS for cell in row.cells if cell.reason)
    return {reason: number for number, reason in enumerate(found, start=1)}
