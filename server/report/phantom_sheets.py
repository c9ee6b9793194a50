"""What the phantoms of a run look like, label by label, for a person to judge."""

from collections.abc import Mapping
from pathlib import Path

from common.config.run import PhantomSource, RunConfig
from common.datasets.phantom.case import PhantomCase
from common.datasets.phantom.contact_sheet import contact_sheet
from common.datasets.phantom_source import open_phantom
from common.tasks import Task

COLUMNS = 4  # pictures per label
SEARCH = 64  # patients looked through for them


def draw_phantom_sheets(config: RunConfig, folder: Path) -> tuple[Path, ...]:
    """Draw one contact sheet per task that has phantoms, of its first such site."""
    sheets = []
    for name, (site, source) in _first_sites(config).items():
        task = config.task(name)
        table = open_phantom(source, task=task, site=site, seed=config.seed)
        cases = [table.draw(index) for index in range(min(SEARCH, len(table)))]
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(_by_label(cases, task), columns=COLUMNS).save(path)
        sheets.append(path)
    return tuple(sheets)


def _first_sites(config: RunConfig) -> Mapping[str, tuple[str, PhantomSource]]:
    first: dict[str, tuple[str, PhantomSource]] = {}
    for site in config.sites:
        if isinstance(site.source, PhantomSource):
            first.setdefault(site.task, (site.name, site.source))
    return first


def _by_label(cases: list[PhantomCase], task: Task) -> dict[str, list[PhantomCase]]:
    if task.kind == "multi-label":
        groups = {"no finding": [case for case in cases if not any(case.targets)]}
        for number, label in enumerate(task.labels):
            groups[label] = [case for case in cases if case.targets[number] == 1]
    else:
        groups = {
            label: [case for case in cases if case.targets[0] == value]
            for value, label in enumerate(task.labels)
        }
    return {label: found[:COLUMNS] for label, found in groups.items() if found}
