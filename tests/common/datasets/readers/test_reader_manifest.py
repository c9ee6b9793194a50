"""Any table of pictures: the real index as it is, and what a hospital's own table may get wrong."""

import pickle
from collections import Counter
from math import isnan
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.reading import load_config
from common.config.run import DataConfig, ManifestColumns, ManifestSource
from common.datasets.csv_table import read_csv
from common.datasets.prepare import prepare_shard
from common.datasets.sources import FileSourceTable, open_source
from common.datasets.views import SubsetSource
from common.errors import ConfigError, DataError
from common.tasks import NIH_FINDINGS, Task, task_named

CONFIGS = Path(__file__).resolve().parents[4] / "configs"
COLUMNS: dict[str, str | None] = {
    "image": "image",
    "labels": "labels",
    "patient": "patient_id",
    "site": "site",
    "roi_mask": "roi_mask",
    "roi_boxes": "roi_boxes",
    "roi_kind": "roi_kind",
    "official_split": None,
}
HEADER = "image,labels,patient_id,site,roi_kind,roi_mask,roi_boxes,source\n"


def open_manifest(
    data_root: Path,
    *,
    task: Task | str,
    mapping: str,
    sources: tuple[str, ...] = (),
    columns: dict[str, str | None] | None = None,
    separator: str = "|",
    table: str = "index.csv",
    images: str | None = None,
) -> FileSourceTable:
    source = open_source(
        ManifestSource(
            kind="manifest",
            table=table,
            images=images,
            columns=ManifestColumns.model_validate({**COLUMNS, **(columns or {})}),
            where={"source": sources} if sources else {},
            label_separator=separator,
            mapping=f"labels/{mapping}",
        ),
        task=task_named(task) if isinstance(task, str) else task,
        data_root=data_root,
        config_root=CONFIGS,
        site="north",
        seed=0,
    )
    assert isinstance(source, FileSourceTable)
    return source


def chest_table(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    Image.new("L", (8, 6), 100).save(tmp_path / "a.png")
    Image.fromarray(np.eye(6, 8, dtype=bool)).save(tmp_path / "mask.png")
    (tmp_path / "index.csv").write_text(header + "".join(f"{row}\n" for row in rows))
    return tmp_path


def open_chest(root: Path, **options: object) -> FileSourceTable:
    return open_manifest(root, task="chestx", mapping="nih.yaml", **options)  # type: ignore[arg-type]


def data_config() -> DataConfig:
    size = ["data.image_size_px=32", "model.image_size_px=32"]
    return load_config(CONFIGS / "default.yaml", size).run.data


# The real index


def test_real_nih_rows_have_targets_and_official_boxes(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real",
        task="chestx",
        mapping="nih.yaml",
        sources=("nih_64px", "nih_full", "nih_mass_boxes"),
    )
    assert len(source) == 734 + 23 + 30
    assert not source.exclusions
    assert len({source.patient(i) for i in range(len(source))}) == 206
    denied = sum(set(source.targets(i)) == {0.0} for i in range(len(source)))
    assert denied == 366
    boxed = [record for record in source.records if record.regions]
    assert len(boxed) == 6 + 30
    names = {(region.name, region.label) for record in boxed for region in record.regions}
    assert ("Infiltrate", NIH_FINDINGS.index("Infiltration")) in names
    assert ("Mass", NIH_FINDINGS.index("Mass")) in names


def test_real_boxes_are_in_pixels_of_the_stored_picture(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real", task="chestx", mapping="nih.yaml", sources=("nih_mass_boxes",)
    )
    (index,) = (i for i, record in enumerate(source.records) if record.image.stem == "00003285_001")
    first = source.load(index).regions[0]  # [320.5, 210.5, 22.0, 16.5, "Nodule"]
    rows, columns = np.nonzero(first.mask)
    assert abs(columns.min() - 320.5) <= 1
    assert abs(columns.max() + 1 - 342.5) <= 1
    assert abs(rows.min() - 210.5) <= 1
    assert abs(rows.max() + 1 - 227) <= 1


def test_real_covid_rows_assert_pneumonia_and_leave_the_rest_unknown(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real",
        task="chestx",
        mapping="covid.yaml",
        sources=("covid_chestxray", "covid_lesion_seg"),
    )
    assert len(source) == 133 + 22
    pneumonia = NIH_FINDINGS.index("Pneumonia")
    counts = Counter(source.targets(i)[pneumonia] for i in range(len(source)))
    assert counts[0.0] == 4
    assert counts[1.0] == 150  # one row names ARDS and signs only
    known = [sum(not isnan(v) for v in source.targets(i)) for i in range(len(source))]
    assert Counter(known)[14] == 4


def test_real_lung_masks_are_anatomy_and_lesion_masks_explain_the_opacities(
    real_data: Path,
) -> None:
    source = open_manifest(
        real_data / "real",
        task="chestx",
        mapping="covid.yaml",
        sources=("covid_chestxray", "covid_lesion_seg"),
    )
    kinds = Counter((r.kind, r.label) for record in source.records for r in record.regions)
    pneumonia, consolidation = map(NIH_FINDINGS.index, ("Pneumonia", "Consolidation"))
    assert kinds == {
        ("organ_mask_lung", -1): 86,
        ("lesion_mask", pneumonia): 21,  # one picture names no cause
        ("lesion_mask", consolidation): 6,
    }


def test_real_outlines_of_opacities_never_explain_the_effusion_beside_them(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real",
        task=task_named("chestx", ("Effusion", "Mass")),
        mapping="covid.yaml",
        sources=("covid_lesion_seg",),
    )
    (record,) = source.records  # the others say nothing about effusion or mass
    assert record.targets[0] == 1.0
    assert record.regions == ()


def test_real_patients_in_two_official_splits_are_counted_on_the_card(
    real_data: Path, tmp_path: Path
) -> None:
    source = open_manifest(
        real_data / "real",
        task="chestx",
        mapping="nih.yaml",
        sources=("nih_64px",),
        columns={"official_split": "official_split"},
    )
    listed: dict[str, set[str | None]] = {}
    for record in source.records:
        listed.setdefault(record.patient, set()).add(record.official_split)
    leaking = {patient for patient, splits in listed.items() if len(splits) > 1}
    assert len(leaking) == 22
    kept = [i for i, record in enumerate(source.records) if record.patient in leaking]
    shard = prepare_shard(
        SubsetSource(source, tuple(kept), exclusions=()),
        task=task_named("chestx"),
        parts={"train": 0.8, "val": 0.1, "test": 0.1},
        data=data_config(),
        seed=0,
        out=tmp_path / "shard",
    )
    assert shard.card.duplicates.straddling_patients == 22


def test_real_hospitals_are_kept_and_an_unnamed_one_is_the_site(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real", task="chestx", mapping="covid.yaml", sources=("covid_lesion_seg",)
    )
    hospitals = Counter(record.site for record in source.records)
    assert hospitals["north"] == 1
    assert len(hospitals) == 14


def test_real_same_picture_under_two_patients_is_delivered_under_both(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real", task="chestx", mapping="covid.yaml", sources=("covid_chestxray",)
    )
    patients = {source.patient(i) for i in range(len(source))}
    table = read_csv(real_data / "real/index.csv")
    kind, patient = table.position("source"), table.position("patient_id")
    listed = {cells[patient] for _, cells in table.rows if cells[kind] == "covid_chestxray"}
    assert patients == listed
    assert len(patients) == 72


@pytest.mark.parametrize("column", ["label", "labels"])
def test_real_fundus_rows_are_graded_from_either_column(real_data: Path, column: str) -> None:
    source = open_manifest(
        real_data / "real",
        task="retina",
        mapping="idrid.yaml",
        sources=("idrid_grading", "idrid_seg"),
        columns={"labels": column},
    )
    assert Counter(source.targets(i)[0] for i in range(len(source))) == {
        0.0: 59,
        1.0: 20,
        2.0: 90,
        3.0: 68,
        4.0: 46,
    }
    assert Counter(e.reason for e in source.exclusions) == {"no label": 9}
    assert {r.label for record in source.records for r in record.regions} == {0}


def test_real_rows_without_patient_are_each_their_own(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real", task="retina", mapping="idrid.yaml", sources=("idrid_grading",)
    )
    patients = [source.patient(i) for i in range(len(source))]
    assert len(set(patients)) == 238
    assert all(patient.startswith("picture:") for patient in patients)


def test_real_histology_rows_have_gland_masks_of_both_kinds(real_data: Path) -> None:
    source = open_manifest(
        real_data / "real", task="pathoscan", mapping="ebhi.yaml", sources=("ebhi_seg",)
    )
    assert Counter(source.targets(i)[0] for i in range(len(source))) == {0.0: 209, 1.0: 120}
    kinds = Counter(region.kind for record in source.records for region in record.regions)
    assert kinds == {"lesion_mask": 278, "region_mask_normal": 51}


@pytest.mark.parametrize(
    ("task", "mapping", "sources", "channels"),
    [
        ("chestx", "nih.yaml", ("nih_64px", "nih_full", "nih_mass_boxes"), 1),
        ("chestx", "covid.yaml", ("covid_chestxray", "covid_lesion_seg"), 1),
        ("retina", "idrid.yaml", ("idrid_grading", "idrid_seg"), 3),
        ("pathoscan", "ebhi.yaml", ("ebhi_seg",), 3),
    ],
)
def test_every_real_row_loads(
    real_data: Path, task: str, mapping: str, sources: tuple[str, ...], channels: int
) -> None:
    source = open_manifest(real_data / "real", task=task, mapping=mapping, sources=sources)
    for index in range(len(source)):
        case = source.load(index)
        assert case.image.shape[2] == channels
        assert all(region.mask.shape == case.image.shape[:2] for region in case.regions)


def test_real_table_with_todo_and_empty_licences_counts_what_it_sets_aside(
    real_data: Path, tmp_path: Path
) -> None:
    native = read_csv(real_data / "native/covid_chestxray/metadata.csv")
    finding, name, patient = (native.position(n) for n in ("finding", "filename", "patientid"))
    lines = []
    for number, (_, cells) in enumerate(native.rows):
        Image.new("L", (4, 4)).save(tmp_path / f"{number}.png")
        lines.append(f'{number}.png,"{cells[finding]}",{cells[patient]},{cells[name]}\n')
    (tmp_path / "index.csv").write_text("image,labels,patient_id,name\n" + "".join(lines))
    source = open_manifest(
        tmp_path,
        task="chestx",
        mapping="covid.yaml",
        separator=",",
        columns={"site": None, "roi_mask": None, "roi_boxes": None, "roi_kind": None},
    )
    assert Counter(e.reason for e in source.exclusions) == {"label set aside": 78, "no label": 4}
    assert len(source) == 751 - 82


# A hospital's own table


def test_columns_may_be_absent(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass", header="image,labels\n")
    absent: dict[str, str | None] = dict.fromkeys(
        ("patient", "site", "roi_mask", "roi_boxes", "roi_kind")
    )
    (record,) = open_chest(root, columns=absent).records
    assert record.patient == "picture:a.png"
    assert record.site == "north"
    assert record.regions == ()


def test_pictures_may_lie_in_a_folder_that_the_table_does_not_name(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,,,lesion_mask,mask.png,,x")
    (root / "pictures/deep").mkdir(parents=True)
    (root / "a.png").rename(root / "pictures/deep/a.png")
    (record,) = open_chest(root, images="pictures/deep").records
    assert record.image == root / "pictures/deep/a.png"
    assert record.patient == "picture:pictures/deep/a.png"
    assert record.regions[0].mask == root / "mask.png"


def test_folder_of_pictures_that_is_not_there_is_named(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,none,,,x")
    with pytest.raises(DataError, match=r"gone: does not exist; correct the source's path"):
        open_chest(root, images="gone")


def test_equal_names_in_two_folders_are_two_patients(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        chest_table(tmp_path / folder, "a.png,Mass,,,none,,,x")
    names = {
        open_chest(tmp_path, table=f"{folder}/index.csv").patient(0) for folder in ("one", "two")
    }
    assert names == {"picture:one/a.png", "picture:two/a.png"}


def test_official_split_is_read_and_an_empty_cell_names_none(tmp_path: Path) -> None:
    root = chest_table(
        tmp_path, "a.png,Mass,test", "a.png,Mass,", header="image,labels,official_split\n"
    )
    absent: dict[str, str | None] = dict.fromkeys(
        ("patient", "site", "roi_mask", "roi_boxes", "roi_kind")
    )
    source = open_chest(root, columns={**absent, "official_split": "official_split"})
    assert [source.official_split(index) for index in range(2)] == ["test", None]


def test_one_picture_in_two_official_splits_is_counted_on_the_card(tmp_path: Path) -> None:
    root = chest_table(
        tmp_path,
        "a.png,Mass,1,train",
        "copy.png,Mass,2,test",
        header="image,labels,patient_id,official_split\n",
    )
    (root / "copy.png").write_bytes((root / "a.png").read_bytes())
    absent: dict[str, str | None] = dict.fromkeys(("site", "roi_mask", "roi_boxes", "roi_kind"))
    shard = prepare_shard(
        open_chest(root, columns={**absent, "official_split": "official_split"}),
        task=task_named("chestx"),
        parts={"train": 0.8, "val": 0.1, "test": 0.1},
        data=data_config(),
        seed=0,
        out=tmp_path / "shard",
    )
    found = shard.card.duplicates
    assert (found.exact, found.straddling_pictures, found.straddling_patients) == (1, 1, 0)


def test_where_selects_rows(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,none,,,x", "a.png,Mass,2,,none,,,y")
    source = open_chest(root, sources=("y",))
    assert [record.row for record in source.records] == ["index.csv row 3"]


def test_where_value_that_no_row_has_is_refused(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,none,,,nih_full")
    with pytest.raises(DataError, match=r"'nih_ful'.*Did you mean 'nih_full'"):
        open_chest(root, sources=("nih_ful",))


@pytest.mark.parametrize("key", ["image", "labels", "patient", "site", "roi_mask", "roi_kind"])
def test_wrong_column_names_the_nearest_and_what_there_is(tmp_path: Path, key: str) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,none,,,x")
    wrong = f"{COLUMNS[key]}s_"
    with pytest.raises(DataError, match=rf"{wrong}.*Did you mean '{COLUMNS[key]}'.*Known: image"):
        open_chest(root, columns={key: wrong})


def test_masks_without_a_kind_are_refused(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,lesion_mask,mask.png,,x")
    with pytest.raises(ConfigError, match=r"columns\.roi_kind must name the column"):
        open_chest(root, columns={"roi_kind": None})


def test_unknown_kind_of_region_is_named_by_row(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,lesion_maks,mask.png,,x")
    with pytest.raises(DataError, match=r"index\.csv row 2: .*Did you mean 'lesion_mask'"):
        open_chest(root)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("gone.png,Mass,1,,none,,,x", "missing picture"),
        (",Mass,1,,none,,,x", "missing picture"),
        ("a.png,Scoliosis,1,,none,,,x", "unknown label"),
        ("a.png,,1,,none,,,x", "no label"),
        ("a.png,No Finding|Mass,1,,none,,,x", "contradictory labels"),
        ("a.png,Mass,1,,lesion_mask,gone.png,,x", "missing mask"),
        ("a.png,Mass,1,,lesion_mask,,,x", "missing mask"),
        ('a.png,Mass,1,,lesion_box,,"[[1, 1, 2, 2, ""Lump""]]",x', "unknown label"),
    ],
)
def test_row_that_cannot_be_used_is_counted(tmp_path: Path, row: str, reason: str) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,none,,,x", row)
    (excluded,) = open_chest(root).exclusions
    assert (excluded.reason, excluded.row) == (reason, "index.csv row 3")
    assert excluded.detail


@pytest.mark.parametrize("name", ["../{}", "sub/../../{}", "{}", "link/../{}", "x" * 300])
def test_a_path_that_leads_out_of_the_data_folder_names_nothing(tmp_path: Path, name: str) -> None:
    """A table may come from somebody else, and must not choose among all files of a hospital."""
    data, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (data, data / "sub", outside, outside / "sub"):
        folder.mkdir()
    (data / "link").symlink_to(outside / "sub")  # its ".." would be outside
    for folder in (outside, tmp_path):
        Image.new("L", (8, 6), 100).save(folder / "other.png")
    told = name.format(outside / "other.png" if name == "{}" else "other.png")
    chest_table(data, "a.png,Mass,p,s,,,,x", f"{told},Mass,p,s,,,,x",
                f"a.png,Mass,p,s,lesion_mask,{told},,x")  # fmt: skip
    source = open_chest(data)
    assert [record.image.name for record in source.records] == ["a.png"]
    assert [exclusion.reason for exclusion in source.exclusions] == [
        "missing picture",
        "missing mask",
    ]


def test_a_path_within_the_data_folder_is_followed_however_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "data" / "tables").mkdir(parents=True)
    Image.new("L", (8, 6), 100).save(tmp_path / "kept" / "b.png")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "kept")
    root = chest_table(tmp_path / "data", "unused")
    names = ("../a.png", str(root / "a.png"), "../linked/b.png")
    rows = "".join(f"{name},Mass,p,s,,,,x\n" for name in names)
    (root / "tables" / "index.csv").write_text(HEADER + rows)
    source = open_chest(root, table="tables/index.csv")
    assert [record.image.name for record in source.records] == ["a.png", "a.png", "b.png"]


@pytest.mark.parametrize("cell", ["[[1, 1, 2]]", "[1, 1, 2, 2]", "1 1 2 2", '[[1,1,0,2,"Mass"]]'])
def test_malformed_boxes_are_named_by_row(tmp_path: Path, cell: str) -> None:
    quoted = cell.replace('"', '""')
    root = chest_table(tmp_path, f'a.png,Mass,1,,lesion_box,,"{quoted}",x')
    with pytest.raises(DataError, match=r"index\.csv row 2: boxes must be JSON like"):
        open_chest(root)


def test_mask_and_boxes_of_one_row_are_both_read(tmp_path: Path) -> None:
    root = chest_table(
        tmp_path, 'a.png,Mass|Nodule,1,,lesion_mask,mask.png,"[[1, 1, 2, 2, ""Nodule""]]",x'
    )
    regions = open_chest(root).load(0).regions
    assert [(r.kind, r.label) for r in regions] == [
        ("lesion_mask", -1),
        ("lesion_box", NIH_FINDINGS.index("Nodule")),
    ]
    assert [int(r.mask.sum()) for r in regions] == [6, 4]


def test_lesion_box_without_a_name_explains_what_is_positive(tmp_path: Path) -> None:
    root = chest_table(tmp_path, 'a.png,Mass,1,,lesion_box,,"[[1, 1, 2, 2]]",x')
    (region,) = open_chest(root).records[0].regions
    assert (region.name, region.label) == ("lesion", -1)


def test_box_of_anatomy_is_no_lesion_whatever_it_is_called(tmp_path: Path) -> None:
    root = chest_table(tmp_path, 'a.png,Mass,1,,organ_mask_lung,,"[[1, 1, 2, 2, ""left""]]",x')
    (region,) = open_chest(root).records[0].regions
    assert (region.kind, region.label) == ("organ_mask_lung", -1)


def test_row_of_kind_none_has_no_region_whatever_it_names(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,none,mask.png,,x")
    assert open_chest(root).records[0].regions == ()


def test_restricted_run_passes_over_boxes_of_other_findings(tmp_path: Path) -> None:
    boxes = '"[[1, 1, 2, 2, ""Nodule""], [3, 3, 2, 2, ""Mass""]]"'
    root = chest_table(tmp_path, f"a.png,Mass|Nodule,1,,lesion_box,,{boxes},x")
    source = open_manifest(root, task=task_named("chestx", ("Nodule",)), mapping="nih.yaml")
    assert source.targets(0) == (1.0,)
    assert [(r.name, r.label) for r in source.records[0].regions] == [("Nodule", 0)]


def test_mask_of_another_size_names_row_file_and_sizes(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,lesion_mask,mask.png,,x")
    Image.new("1", (4, 4), 1).save(tmp_path / "mask.png")
    source = open_chest(root)
    with pytest.raises(DataError, match=r"index\.csv row 2: .*mask\.png: mask of 4x4 .* 8x6"):
        source.load(0)


def test_label_table_of_another_task_is_refused(tmp_path: Path) -> None:
    root = chest_table(tmp_path, "a.png,Mass,1,,none,,,x")
    with pytest.raises(ConfigError, match="of task 'chestx', not of 'retina'"):
        open_manifest(root, task="retina", mapping="nih.yaml")


def test_table_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no picture can be used \(the table is empty"):
        open_chest(chest_table(tmp_path))


def test_source_travels_to_worker_processes(tmp_path: Path) -> None:
    source = open_chest(chest_table(tmp_path, "a.png,Mass,1,,lesion_mask,mask.png,,x"))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    np.testing.assert_array_equal(copy.load(0).image, source.load(0).image)
