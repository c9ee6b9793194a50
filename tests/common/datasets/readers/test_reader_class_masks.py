"""Class masks of a generic manifest: every sign gets the outline that is its own."""

from collections import Counter
from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.ndimage import binary_dilation

from common.concepts import concept_targets, concepts_of
from common.config.reading import load_config
from common.config.run import DataConfig, IdridSource, ManifestColumns, ManifestSource, RunConfig
from common.datasets.picture_store import PictureStore
from common.datasets.prepare import prepare_shard
from common.datasets.preprocess import preprocess
from common.datasets.record import Case, MaskValue, Record, Region, finding_of
from common.datasets.roi_file import all_region_pixels, read_class_mask, region_pixels
from common.datasets.shard import Shard, concept_masks, lesion_masks
from common.datasets.sources import FileSourceTable, open_source
from common.datasets.views import SubsetSource
from common.errors import ConfigError, DataError
from common.tasks import Task, task_named

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
RETINA = task_named("retina")
COLUMNS: dict[str, str | None] = {
    "image": "image",
    "labels": "labels",
    "patient": None,
    "site": None,
    "roi_mask": "roi_mask",
    "roi_boxes": None,
    "roi_kind": "roi_kind",
    "official_split": None,
    "roi_class_mask": "roi_class_mask",
}
LESIONS = ("microaneurysm", "haemorrhage", "hard_exudate", "soft_exudate")


def opened(
    data_root: Path,
    *,
    task: Task = RETINA,
    mapping: str = "labels/idrid.yaml",
    config_root: Path = CONFIGS,
    where: dict[str, tuple[str, ...]] | None = None,
    columns: dict[str, str | None] | None = None,
) -> FileSourceTable:
    source = open_source(
        ManifestSource(
            kind="manifest",
            table="index.csv",
            images=None,
            columns=ManifestColumns.model_validate({**COLUMNS, **(columns or {})}),
            where=where or {},
            label_separator="|",
            mapping=mapping,
        ),
        task=task,
        data_root=data_root,
        config_root=config_root,
        site="valley",
        seed=0,
    )
    assert isinstance(source, FileSourceTable)
    return source


def table(folder: Path, *rows: str) -> Path:
    """Write a table, a picture of 8 x 6 pixels, and a class mask with 1, 1, 3 in its first row."""
    Image.new("RGB", (8, 6), (90, 60, 30)).save(folder / "a.png")
    Image.fromarray(class_values()).save(folder / "classes.png")
    Image.fromarray(class_values() > 0).save(folder / "lesions.png")
    header = "image,labels,roi_kind,roi_mask,roi_class_mask\n"
    (folder / "index.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    return folder


def class_values() -> np.ndarray:
    values = np.zeros((6, 8), np.uint8)
    values[0, :3] = (1, 1, 3)
    return values


def targets_of(case: Case, task: Task) -> dict[str, float]:
    found = concept_targets(
        concepts_of(task.name, task.concepts),
        regions=[(r.name, finding_of(r.kind, r.label, task)) for r in case.regions],
        outlined=case.outlined,
        signs=case.signs,
    )
    return dict(zip(task.concepts, found, strict=True))


def test_every_sign_has_its_own_pixels_and_together_they_are_the_lesion(tmp_path: Path) -> None:
    source = opened(table(tmp_path, "a.png,DR2,lesion_mask,lesions.png,classes.png"))
    case = source.load(0)
    assert [(r.kind, r.name, r.label) for r in case.regions] == [
        ("lesion_mask", "microaneurysm", 0),
        ("lesion_mask", "hard_exudate", 0),
    ]
    for region, value in zip(case.regions, (1, 3), strict=True):
        np.testing.assert_array_equal(region.mask, class_values() == value)


def test_a_sign_without_a_pixel_is_absent_and_one_that_nobody_outlined_unknown(
    tmp_path: Path,
) -> None:
    source = opened(table(tmp_path, "a.png,DR2,lesion_mask,,classes.png"))
    found = targets_of(source.load(0), RETINA)
    assert isnan(found.pop("neovascularisation"))
    assert found == dict(zip(LESIONS, (1.0, 0.0, 1.0, 0.0), strict=True))


def test_a_word_keeps_a_sign_that_the_mask_has_lost(tmp_path: Path) -> None:
    """A spot smaller than a pixel of a reduced mask is still there."""
    source = opened(table(tmp_path, "a.png,DR2|SE|MA,lesion_mask,,classes.png"))
    found = targets_of(source.load(0), RETINA)
    assert (found["soft_exudate"], found["haemorrhage"]) == (1.0, 0.0)


def test_without_a_class_mask_the_cell_beside_it_is_read(tmp_path: Path) -> None:
    source = opened(table(tmp_path, "a.png,DR2,lesion_mask,lesions.png,", "a.png,DR0,none,,"))
    masked, healthy = source.load(0), source.load(1)
    assert [region.name for region in masked.regions] == ["lesion"]
    np.testing.assert_array_equal(masked.regions[0].mask, class_values() > 0)
    assert isnan(targets_of(masked, RETINA)["haemorrhage"])
    assert healthy.regions == ()


def test_a_number_without_a_meaning_is_an_error_and_no_guess(tmp_path: Path) -> None:
    root = table(tmp_path, "a.png,DR2,lesion_mask,,classes.png")
    values = class_values()
    values[5, 7] = 9
    Image.fromarray(values).save(root / "classes.png")
    with pytest.raises(DataError, match=r"row 2: .*classes\.png: holds the value 9.* 1, 2, 3, 4"):
        opened(root).load(0)


@pytest.mark.parametrize(
    ("mode", "name", "says"),
    [
        ("RGB", "classes.png", "one number of 8 bits"),
        ("I;16", "classes.png", "one number of 8 bits"),
        ("L", "classes.jpg", "JPEG blurs"),
    ],
)
def test_a_file_without_one_small_number_per_pixel_is_refused(
    tmp_path: Path, mode: str, name: str, says: str
) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / name)
    with pytest.raises(DataError, match=says):
        read_class_mask(tmp_path / name, size=(8, 6))


def test_palette_and_grey_files_hold_the_same_numbers_and_sizes_must_fit(tmp_path: Path) -> None:
    picture = Image.fromarray(class_values())
    picture.save(tmp_path / "grey.png")
    palette = Image.fromarray(class_values(), mode="P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(read_class_mask(tmp_path / name, size=(8, 6)), class_values())
    with pytest.raises(DataError, match="mask of 8x6 pixels on a picture of 9x6"):
        read_class_mask(tmp_path / "grey.png", size=(9, 6))


def test_regions_of_one_class_mask_are_those_read_one_by_one(tmp_path: Path) -> None:
    table(tmp_path)
    path = tmp_path / "classes.png"
    known = (1, 3)
    regions = [
        Region("lesion_mask", str(v), 0, path, None, None, MaskValue(v, known)) for v in known
    ]
    box = Region("lesion_box", "box", 0, None, (1, 1, 2, 2), None)
    together = all_region_pixels([*regions, box], size=(8, 6))
    for region, mask in zip([*regions, box], together, strict=True):
        np.testing.assert_array_equal(mask, region_pixels(region, size=(8, 6)))


def test_a_missing_class_mask_is_counted_and_a_mapping_without_the_section_refused(
    tmp_path: Path,
) -> None:
    root = table(tmp_path, "a.png,DR2,lesion_mask,,gone.png", "a.png,DR1,lesion_mask,,classes.png")
    assert [e.reason for e in opened(root).exclusions] == ["missing mask"]
    with pytest.raises(ConfigError, match=r"nih\.yaml: has no section class_mask"):
        opened(root, task=task_named("chestx"), mapping="labels/nih.yaml")
    with pytest.raises(ConfigError, match=r"columns\.roi_kind must name"):
        opened(root, columns={"roi_kind": None, "roi_mask": None})


# A task of several findings


def chest(folder: Path, labels: tuple[str, ...], *, classes: dict[str, str]) -> FileSourceTable:
    """Open a table of one chest picture with a consolidation and a mass in its class mask."""
    (folder / "labels").mkdir()
    mapping = yaml.safe_load((CONFIGS / "labels/covid.yaml").read_text())
    mapping["words"]["Mass"] = "Mass"
    (folder / "labels/own.yaml").write_text(yaml.safe_dump(mapping | {"class_mask": classes}))
    return opened(
        table(folder, "a.png,COVID-19|Pleural effusion,lesion_mask,,classes.png"),
        task=task_named("chestx", labels),
        mapping="labels/own.yaml",
        config_root=folder,
    )


def test_a_region_called_like_a_finding_explains_it_and_another_what_is_opaque(
    tmp_path: Path,
) -> None:
    labels = ("Pneumonia", "Mass", "Effusion")
    source = chest(tmp_path, labels, classes={"1": "consolidation", "2": "fluid", "3": "Mass"})
    case = source.load(0)
    assert [(r.name, r.label) for r in case.regions] == [("consolidation", 0), ("Mass", 1)]
    found = targets_of(case, task_named("chestx", labels))
    assert (found["consolidation"], found["opacity"], found["mass"]) == (1.0, 1.0, 1.0)
    # Its words assert the effusion, whose region has no pixel.
    assert found["effusion"] == 1.0
    assert isnan(found["nodule"])


def test_a_region_shows_its_sign_where_the_run_does_not_ask_about_the_finding(
    tmp_path: Path,
) -> None:
    labels = ("Effusion",)
    source = chest(tmp_path, labels, classes={"1": "consolidation", "3": "Mass"})
    case = source.load(0)
    task = task_named("chestx", labels)
    assert targets_of(case, task)["consolidation"] == 1.0
    # Only a finding's region shows a mass, and this run does not know the finding.
    assert isnan(targets_of(case, task)["mass"])
    shard = prepare_shard(
        source, task=task, parts={"train": 1.0, "val": 0.0, "test": 0.0}, data=data(64), seed=0,
        out=tmp_path / "shard",
    )  # fmt: skip
    assert shard.targets[0, 0] == 1.0
    assert lesion_masks(shard, 0, task) == {}  # an effusion is not explained by another's outline
    assert set(concept_masks(shard, 0, task)) == {0, 1}  # opacity, consolidation


@pytest.mark.parametrize(
    ("value", "region", "says"),
    [
        ("0", "fluid", 'text from "1" to "255", got \'0\''),
        ("256", "fluid", "got '256'"),
        ("1", "fluids", "unknown region 'fluids'.*fluid"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(
    tmp_path: Path, value: str, region: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s)class_mask.*{says}"):
        chest(tmp_path, ("Effusion",), classes={value: region})


# The store of prepared pictures


def data(size_px: int) -> DataConfig:
    sizes = [f"data.image_size_px={size_px}", f"model.image_size_px={size_px}"]
    return load_config(CONFIGS / "default.yaml", sizes).run.data


def test_kept_outlines_are_told_apart_and_follow_the_label_table(tmp_path: Path) -> None:
    root = table(tmp_path, "a.png,DR2,lesion_mask,,classes.png")
    source = opened(root)

    def prepared(what: FileSourceTable, out: str) -> Shard:
        with PictureStore(tmp_path / "store") as store:
            return prepare_shard(
                what, task=RETINA, parts={"train": 1.0, "val": 0.0, "test": 0.0}, data=data(64),
                seed=0, out=tmp_path / out, store=store,
            )  # fmt: skip

    first = prepared(source, "one")
    assert first.region_name == ("microaneurysm", "hard_exudate")
    assert not (np.asarray(first.region_masks[0]) & np.asarray(first.region_masks[1])).any()
    again = prepared(source, "two")  # from the store
    np.testing.assert_array_equal(again.region_masks, first.region_masks)
    # A label table that no longer knows the number 3 must not be served by what was kept.
    (record,) = source.records
    fewer = tuple(
        replace(region, of_class=MaskValue(region.of_class.value, (1, 2)))
        for region in record.regions
        if region.of_class is not None and region.of_class.value in (1, 2)
    )
    narrower = replace(source, records=(replace(record, regions=fewer),))
    with pytest.raises(DataError, match="no picture can be used"):
        prepared(narrower, "three")


# The real index


@pytest.fixture(scope="module")
def fundus(real_data: Path) -> FileSourceTable:
    run = load_config(CONFIGS / "experiments/real.yaml", []).run
    source = open_source(
        _fundus_source(run), task=RETINA, data_root=real_data / "real", config_root=CONFIGS,
        site="valley", seed=0,
    )  # fmt: skip
    assert isinstance(source, FileSourceTable)
    return source


def _fundus_source(run: RunConfig) -> ManifestSource:
    (source,) = run.data.pools["fundus"].sources
    assert isinstance(source, ManifestSource)
    return source


def _segmented(source: FileSourceTable) -> list[int]:
    return [i for i, r in enumerate(source.records) if "idrid_seg" in str(r.image)]


def test_the_real_experiment_teaches_each_sign_by_its_own_outline(
    fundus: FileSourceTable,
) -> None:
    rows = _segmented(fundus)
    outlined: Counter[str] = Counter()
    for index in rows:
        case = fundus.load(index)
        outlined.update({region.name for region in case.regions})
        found = targets_of(case, RETINA)
        words = {name for name, is_there in case.signs if is_there}
        assert {name for name in LESIONS if found[name] == 1} == words
        assert {region.name for region in case.regions} == words
    assert len(rows) == 45  # of 54, those with a grade
    assert outlined == {
        "microaneurysm": 45,
        "haemorrhage": 44,
        "hard_exudate": 45,
        "soft_exudate": 22,
    }


def test_real_class_masks_lie_within_the_lesions_of_the_mask_beside_them(
    fundus: FileSourceTable,
) -> None:
    for index in _segmented(fundus)[:6]:
        record: Record = fundus.records[index]
        case = fundus.load(index)
        with Image.open(str(record.regions[0].mask).replace("class_masks", "masks")) as lesions:
            together = np.any([region.mask for region in case.regions], axis=0)
            np.testing.assert_array_equal(together, np.asarray(lesions) > 0)


def test_real_class_masks_agree_with_the_outlines_that_idrid_s_own_reader_gives(
    fundus: FileSourceTable, real_data: Path
) -> None:
    own = open_source(
        IdridSource(kind="idrid", root="idrid", part="segmentation", mapping="labels/idrid.yaml"),
        task=RETINA, data_root=real_data / "native", config_root=CONFIGS, site="valley", seed=0,
    )  # fmt: skip
    assert isinstance(own, FileSourceTable)
    (native,) = (own.load(i) for i, r in enumerate(own.records) if r.image.stem == "IDRiD_01")
    (index,) = (i for i in _segmented(fundus) if "IDRiD_01_a" in str(fundus.records[i].image))
    reduced = fundus.load(index)
    config = data(128).preprocess["retina"]

    def prepared(case: Case) -> dict[str, np.ndarray]:
        regions = [region for region in case.regions if region.kind == "lesion_mask"]
        masks = [region.mask for region in regions]
        found = preprocess(case.image, masks, size_px=128, config=config).masks
        return dict(zip([region.name for region in regions], found, strict=True))

    theirs, ours = prepared(native), prepared(reduced)
    assert ours.keys() == theirs.keys() == {"microaneurysm", "haemorrhage", "hard_exudate"}
    for name, other in (("haemorrhage", "hard_exudate"), ("hard_exudate", "haemorrhage")):
        # The index reduced its masks first: an outline may lie one pixel beside.
        inside = (ours[name] & binary_dilation(theirs[name])).sum() / ours[name].sum()
        astray = (ours[name] & theirs[other]).sum() / ours[name].sum()
        assert (inside > 0.95, astray < 0.2) == (True, True), (name, inside, astray)


def test_a_real_shard_has_a_mask_for_each_sign_it_is_said_to_show(
    fundus: FileSourceTable, tmp_path: Path
) -> None:
    shard = prepare_shard(
        SubsetSource(fundus, tuple(_segmented(fundus)[:8]), exclusions=()),
        task=RETINA, parts={"train": 1.0, "val": 0.0, "test": 0.0}, data=data(128), seed=0,
        out=tmp_path / "shard",
    )  # fmt: skip
    for index in range(len(shard)):
        masks = concept_masks(shard, index, RETINA)
        assert set(masks) == set(np.flatnonzero(shard.concepts[index] == 1).tolist())
        union = np.any(list(masks.values()), axis=0)
        np.testing.assert_array_equal(lesion_masks(shard, index, RETINA)[0], union)
    signs = {sign.name: sign for sign in shard.card.parts[0].signs}
    assert (signs["hard_exudate"].known_pictures, signs["hard_exudate"].shown_pictures) == (8, 8)
    assert signs["soft_exudate"].known_pictures == 8
    assert signs["neovascularisation"].known_pictures == 0
