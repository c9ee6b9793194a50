"""A site's audit pack as people open it: chest pictures whose anatomy is outlined, in a browser."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from chromium import Browser, Page, opened

from client.audit_pack.schema import PACK_FILE, Pack
from client.audit_pack.writing import Asked, write_audit_pack
from common.config.reading import load_config
from common.config.run import PhantomSource
from common.datasets.prepare import prepare_shard
from common.datasets.shard import open_shard
from common.datasets.sources import open_source
from small_model import small_model

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="session")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a pack on chest phantoms with lesions and the whole thorax outlined."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("chest")
    small = ["data.image_size_px=64", "model.image_size_px=64", "sites.0.source.patients=30"]
    config = load_config(CONFIGS / "experiments" / "demo.yaml", small).run
    task, site = config.task("chestx"), config.sites[0]
    assert isinstance(site.source, PhantomSource)
    # Under such a name phantoms tell where the anatomy is.
    source = open_source(
        site.source,
        task=task,
        data_root=root,
        config_root=CONFIGS,
        site="reference-chestx",
        seed=5,
    )
    parts = {"train": 0.2, "val": 0.7, "test": 0.1}
    prepare_shard(source, task=task, parts=parts, data=config.data, seed=5, out=root / "shard")
    shard, model = open_shard(root / "shard"), small_model()
    assert "anatomy_mask" in set(shard.region_kind)
    asked = Asked(
        site="hospital",
        part="val",
        pictures=3,
        methods=("grad-cam",),
        trust="none",
        preprocess=model.about("chestx").preprocess,
    )
    write_audit_pack(
        model, shard, asked, out=root / "pack", now=lambda: NOW, progress=lambda _done, _all: None
    )
    return root / "pack"


def addresses(page: Page) -> list[str]:
    """What a page has asked for but what it carries in itself."""
    asked = [one["request"]["url"] for one in page.events("Network.requestWillBeSent")]
    return [url for url in asked if not url.startswith("data:")]


def test_the_index_loads_whole_and_asks_for_nothing(browser: Browser, pack: Path) -> None:
    with opened(browser, pack / "index.html") as page:
        assert addresses(page) == [(pack / "index.html").as_uri()]
        assert page.events("Log.entryAdded") == []
        assert page.events("Runtime.exceptionThrown") == []
        heading = page.run("document.querySelector('h1').textContent")
        assert heading == "A model on this site's own pictures"


def test_every_link_opens_a_page_with_its_picture(browser: Browser, pack: Path) -> None:
    shown = Pack.model_validate_json((pack / PACK_FILE).read_bytes()).shown
    with opened(browser, pack / "index.html") as page:
        links = "[...document.querySelectorAll('a')]"
        assert page.run(f"{links}.every(a => a.checkVisibility())")
        targets = sorted(set(page.run(f"{links}.map(a => a.href)")))
    assert targets == sorted((pack / one.page).as_uri() for one in shown)
    for one in shown:
        path = pack / one.page
        with opened(browser, path) as page:
            assert addresses(page) == [path.as_uri()]
            assert page.events("Log.entryAdded") == []
            assert page.events("Runtime.exceptionThrown") == []
            assert page.run("document.getElementById('picture').naturalWidth") == 64
            label = "document.getElementById('labels').closest('section')"
            assert not page.run(f"{label}.querySelector('details').open")
            told = page.run(f"{label}.textContent")
            assert all(answer in told for answer in one.labels.values())


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_tables_are_readable_at_every_width(browser: Browser, pack: Path, width: int) -> None:
    with opened(browser, pack / "index.html") as page:
        page.resize(width, 800)
        assert page.run("document.documentElement.scrollWidth") <= width
        # What is wider than the window is moved within its own frame, and nothing runs over.
        tables = page.run(
            """[...document.querySelectorAll('table')].map(table => ({
              heads: [...table.querySelectorAll('thead th')].map(one => one.textContent.trim()),
              rows: [...table.querySelectorAll('tbody tr')].map(one => one.cells.length),
              isFramed: getComputedStyle(table.parentElement).overflowX === 'auto',
              spilling: [...table.querySelectorAll('th, td')]
                .filter(one => one.scrollWidth > one.clientWidth + 1).length,
              smallest: Math.min(...[...table.querySelectorAll('th, td, span')]
                .map(one => parseFloat(getComputedStyle(one).fontSize))),
            }))"""
        )
    assert len(tables) >= 6
    for table in tables:
        assert all(table["heads"])
        assert set(table["rows"]) == {len(table["heads"])}
        assert table["isFramed"]
        assert table["spilling"] == 0
        assert table["smallest"] >= 13


def test_every_link_is_reached_by_keyboard_and_seen_to_be(browser: Browser, pack: Path) -> None:
    with opened(browser, pack / "index.html") as page:
        wanted = page.run("document.querySelectorAll('a').length")
        reached = set()
        for _ in range(wanted + 20):
            page.press("Tab")
            found = page.run(
                "(e => e.tagName === 'A' && [[...document.querySelectorAll('a')].indexOf(e), "
                "getComputedStyle(e).outlineStyle])(document.activeElement)"
            )
            if found:
                reached.add(tuple(found))
    assert reached == {(place, "solid") for place in range(wanted)}


def test_the_places_of_chest_findings_are_told_without_claiming_what_was_outlined(
    pack: Path,
) -> None:
    shown = Pack.model_validate_json((pack / PACK_FILE).read_bytes()).shown
    for one in shown:
        text = (pack / one.page).read_text(encoding="utf-8")
        assert "not outlined" not in text
