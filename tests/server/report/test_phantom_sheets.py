"""The sheets that show a person what a run's phantoms look like."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig
from common.datasets.phantom.contact_sheet import contact_sheet
from common.datasets.phantom_source import open_phantom
from server.report.phantom_sheets import draw_phantom_sheets

DEMO = Path(__file__).parents[3] / "configs" / "experiments" / "demo.yaml"
NIH = "{kind: nih, table: labels.csv, images: pictures, boxes: null}"


def demo(*overrides: str) -> RunConfig:
    few = [f"sites.{number}.source.patients=12" for number in range(5)]
    return load_config(DEMO, [*few, *overrides]).run


@pytest.fixture(scope="module")
def sheets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The demo's sheets, of twelve patients a site."""
    return draw_phantom_sheets(demo(), tmp_path_factory.mktemp("many") / "phantoms")


def test_every_task_gets_one_sheet_with_colour_where_the_task_has_it(
    sheets: tuple[Path, ...],
) -> None:
    assert [path.name for path in sheets] == ["chestx.png", "retina.png", "pathoscan.png"]
    for path in sheets:
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        assert pixels.shape[0] > pixels.shape[1] // 4  # a block per label, one below the other
        assert pixels.std() > 10  # grey levels: pictures, not paper


def test_sheet_shows_the_patients_of_the_tasks_first_phantom_site(sheets: tuple[Path, ...]) -> None:
    config = demo()
    site = config.sites[2]
    assert isinstance(site.source, PhantomSource)
    table = open_phantom(site.source, task=config.task("retina"), site="valley", seed=config.seed)
    cases = [table.draw(index) for index in range(12)]
    grades = {
        label: [case for case in cases if case.targets == (float(grade),)]
        for grade, label in enumerate(config.task("retina").labels)
    }
    expected = contact_sheet(grades, columns=4)

    with Image.open(sheets[1]) as drawn:
        assert np.array_equal(np.asarray(drawn), np.asarray(expected))


def test_task_without_phantoms_gets_no_sheet(tmp_path: Path) -> None:
    real = [f"sites.{number}.source={NIH}" for number in (0, 1)]
    few = [f"sites.{number}.source.patients=12" for number in (2, 3, 4)]

    sheets = draw_phantom_sheets(load_config(DEMO, [*few, *real]).run, tmp_path)

    assert [path.name for path in sheets] == ["retina.png", "pathoscan.png"]


@pytest.fixture(scope="module")
def of_one_patient_a_site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    one = [f"sites.{number}.source.patients=1" for number in range(5)]
    return draw_phantom_sheets(load_config(DEMO, one).run, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("place", range(3), ids=["chestx", "retina", "pathoscan"])
def test_label_that_nobody_has_gets_no_empty_block(
    sheets: tuple[Path, ...], of_one_patient_a_site: tuple[Path, ...], place: int
) -> None:
    one, many = of_one_patient_a_site[place], sheets[place]

    assert one.name == many.name
    with Image.open(one) as alone, Image.open(many) as full:
        assert alone.height < full.height
