"""One headless browser for all tests of this folder, and pages for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PROGRAMS, Browser, find_chromium, started

from common.pages.page import write_page
from sample import picture, sample


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_chromium()
    if program is None:
        pytest.skip(
            f"no browser: none of {', '.join(PROGRAMS)} is on the path. Install Debian's chromium; "
            "without it pages are not tested as people open them."
        )
    with started(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a page of each task."""
    folder = tmp_path_factory.mktemp("pages")
    for task in ("chestx", "retina", "pathoscan"):
        write_page(sample(task), picture(task), folder / f"{task}.html")
    return folder
