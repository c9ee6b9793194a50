"""Preparation: what comes in is stored or counted, the folder is whole or absent, twice is once."""

import csv
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.config.run import DataConfig, PhantomSource
from common.datasets.phantom_source import open_phantom
from common.datasets.prepare import prepare_shard
from common.datasets.record import (
    EVERY_POSITIVE_LABEL,
    Case,
    CaseRegion,
    Exclusion,
    RoiKind,
    Source,
)
from common.datasets.shard import REFERENCE_PARTS, SITE_PARTS, Shard, lesion_masks, open_shard
from common.errors import DataError
from common.tasks import TASKS, Task

PARTS = dict(zip(SITE_PARTS, (0.8, 0.1, 0.1), strict=True))
TILES = TASKS["pathoscan"]


def lesion(
    size: tuple[int, int] = (40, 40),
    *,
    label: int = 0,
    kind: RoiKind = "lesion_mask",
    rows: slice = slice(4, 12),
) -> CaseRegion:
    mask = np.zeros(size, dtype=np.bool_)
    mask[rows, 8:16] = True
    return CaseRegion(kind=kind, name="tumour", label=label, mask=mask)


@pytest.fixture
def cases(make_case: Callable[..., Case]) -> list[Case]:
    return [
        make_case(
            row,
            patient=f"patient {row // 2}",
            targets=(float(row % 2),),
            regions=(lesion(),) if row % 4 == 1 else (),
        )
        for row in range(40)
    ]


@pytest.fixture
def prepare(data_config: DataConfig, tmp_path: Path) -> Callable[..., Shard]:
    def run(
        source: Source,
        *,
        data: DataConfig = data_config,
        parts: Mapping[str, float] = PARTS,
        task: Task = TILES,
        name: str = "shard",
        **options: int,
    ) -> Shard:
        return prepare_shard(
            source, task=task, parts=parts, data=data, seed=3, out=tmp_path / name, **options
        )

    return run


def test_every_picture_is_stored_with_its_targets_and_regions(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    shard = prepare(held_source(cases))
    assert shard.images.shape == (40, 32, 32, 3)
    assert shard.targets[:, 0].tolist() == [float(row % 2) for row in range(40)]
    assert shard.region_image.tolist() == list(range(1, 40, 4))
    assert shard.region_masks[:, 3:10, 6:13].mean() > 0.8


def test_patients_are_codes_in_order_of_appearance(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    shard = prepare(held_source(cases))
    assert shard.patients.tolist() == [row // 2 for row in range(40)]


def test_parts_have_their_shares_of_patients_and_none_twice(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    shard = prepare(held_source(cases))
    patients = {part: set(shard.patients[shard.indices(part)].tolist()) for part in SITE_PARTS}
    assert {part: len(found) for part, found in patients.items()} == {
        "train": 16,
        "val": 2,
        "test": 2,
    }
    assert len(set.union(*patients.values())) == 20


def test_a_reference_set_has_its_own_parts(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    parts = dict(zip(REFERENCE_PARTS, (0.5, 0.25, 0.25), strict=True))
    shard = prepare(held_source(cases), parts=parts)
    assert [count.patients for count in shard.card.parts] == [10, 5, 5]


def test_an_unreadable_picture_is_counted_and_named_only_at_the_site(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    shard = prepare(held_source(cases, broken=frozenset({4, 7})))
    assert shard.card.exclusions == {"picture or mask cannot be used": 2}
    assert "secret" not in shard.card.as_json() + shard.card.as_table()
    with (tmp_path / "shard" / "exclusions.csv").open(encoding="utf-8") as stream:
        details = [row["detail"] for row in csv.DictReader(stream)]
    assert details[0] == "secret-4.png: cannot be read; copy the file again."


def test_rows_that_the_tables_rule_out_are_counted(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    ruled_out = (Exclusion("no label", "row 9", "label is empty"),) * 3
    shard = prepare(held_source(cases, exclusions=ruled_out))
    assert shard.card.exclusions == {"no label": 3}


def test_a_mask_that_does_not_fit_is_counted(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    cases[1] = replace(cases[1], regions=(lesion(size=(40, 39)),))
    shard = prepare(held_source(cases))
    assert len(shard) == 39
    assert shard.card.exclusions == {"picture or mask cannot be used": 1}


def test_equal_pictures_with_conflicting_labels_are_left_out(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    cases[3] = replace(cases[3], image=cases[0].image)
    shard = prepare(held_source(cases))
    assert len(shard) == 38
    assert shard.card.exclusions == {"equal pictures with conflicting labels": 2}
    assert shard.region_image.tolist()[:2] == [1 - 1, 5 - 2]
    assert (shard.images[2] == prepare(held_source(cases[4:]), name="rest").images[0]).all()


def test_conflicts_can_be_kept(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    data_config: DataConfig,
) -> None:
    cases[3] = replace(cases[3], image=cases[0].image)
    keeping = data_config.duplicates.model_copy(update={"conflicts": "keep"})
    shard = prepare(held_source(cases), data=data_config.model_copy(update={"duplicates": keeping}))
    assert (len(shard), shard.card.duplicates.conflicts) == (40, 2)


def test_the_same_picture_under_two_patients_stays_in_one_part(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    for row in (5, 11, 17):
        cases[row] = replace(cases[row], image=cases[1].image)
    shard = prepare(held_source(cases))
    assert len({int(shard.part[row]) for row in (1, 5, 11, 17)}) == 1
    assert shard.card.duplicates.shared_pictures == 1


def test_a_patient_in_two_official_splits_is_counted(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    splits = ["train"] * 39 + ["test"]
    shard = prepare(held_source(cases, splits=splits))
    assert shard.card.duplicates.straddling_patients == 1


def test_nothing_left_is_an_error_that_says_why(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match=r"no picture can be used \(2 picture or mask cannot"):
        prepare(held_source(cases[:2], broken=frozenset({0, 1})))
    assert list(tmp_path.iterdir()) == []


def test_a_source_of_another_task_is_left_out_whole(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    with pytest.raises(DataError, match="must be opened for this task"):
        prepare(held_source(cases), task=TASKS["chestx"])


def test_an_absent_class_and_an_empty_part_are_noted(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
) -> None:
    shard = prepare(held_source([make_case(row, targets=(0.0,)) for row in range(3)]))
    assert "class malignant is absent" in shard.card.notes
    assert "part val is empty: too few patients to share out" in shard.card.notes


def test_pictures_without_a_named_patient_are_noted(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
) -> None:
    cases = [make_case(row, patient=f"picture:{row}") for row in range(4)]
    shard = prepare(held_source(cases))
    note = "4 pictures have no patient in their table: each counts as its own"
    assert note in shard.card.notes
    assert sum(shard.unnamed_pictures(part) for part in shard.parts) == 4
    for part in shard.card.parts:
        assert part.unnamed_pictures == part.pictures


def test_pictures_of_named_patients_are_not_counted_as_unnamed(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
) -> None:
    shard = prepare(held_source([make_case(row, patient=f"{row}") for row in range(4)]))
    assert not any(shard.unnamed_pictures(part) for part in shard.parts)
    with pytest.raises(DataError, match="does not count part 'gate'"):
        shard.unnamed_pictures("gate")


def test_a_blank_tile_is_noted(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    data_config: DataConfig,
) -> None:
    macenko = data_config.preprocess["pathoscan"].model_copy(
        update={"stain_normalisation": "macenko"}
    )
    data = data_config.model_copy(update={"preprocess": {"pathoscan": macenko}})
    blank = replace(make_case(0), image=np.full((32, 32, 3), 240, dtype=np.uint8))
    notes = prepare(held_source([blank]), data=data).card.notes
    assert "stain normalisation: too little tissue, 1 pictures left as they were" in notes


def test_the_same_preparation_again_reads_nothing(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    source = held_source(cases, name="a source")
    first = prepare(source)
    source.reads.clear()
    second = prepare(source)
    assert source.reads == []
    assert (first.images == second.images).all()


@pytest.mark.parametrize("change", ["source", "size", "parts"])
def test_another_preparation_replaces_the_first(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    data_config: DataConfig,
    change: str,
) -> None:
    source = held_source(cases, name="a source")
    prepare(source)
    source.reads.clear()
    if change == "source":
        prepare(replace(source, name="another source"))
    elif change == "size":
        prepare(source, data=data_config.model_copy(update={"image_size_px": 48}))
    else:
        prepare(source, parts={"train": 0.5, "val": 0.25, "test": 0.25})
    assert len(source.reads) == 40


def test_a_source_that_cannot_be_identified_is_always_prepared_anew(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    source = held_source(cases)
    prepare(source)
    prepare(source)
    assert len(source.reads) == 80


def test_a_failure_leaves_the_former_shard(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    prepare(held_source(cases, name="good"))
    with pytest.raises(DataError):
        prepare(held_source(cases[:1], name="bad", broken=frozenset({0})))
    assert len(open_shard(tmp_path / "shard")) == 40
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def test_a_folder_that_is_no_shard_is_not_overwritten(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    (tmp_path / "shard").mkdir()
    (tmp_path / "shard" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="holds no shard"):
        prepare(held_source(cases))
    assert (tmp_path / "shard" / "thesis.txt").exists()


def test_threads_give_the_same_shard(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    one = prepare(held_source(cases), name="one")
    many = prepare(held_source(cases), name="many", workers=3)
    assert (one.images == many.images).all()
    assert (one.part == many.part).all()


def test_pictures_are_mapped_not_loaded(
    cases: list[Case], held_source: Callable[..., Source], prepare: Callable[..., Shard]
) -> None:
    shard = prepare(held_source(cases))
    assert isinstance(shard.images.base, np.memmap)
    assert not shard.images.flags.writeable


def test_a_shard_without_regions_opens(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
) -> None:
    shard = prepare(held_source([make_case(row) for row in range(4)]))
    assert shard.region_masks.shape == (0, 32, 32)


def test_no_patient_row_or_file_name_is_stored_outside_the_exclusions(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    prepare(held_source(cases, broken=frozenset({0})))
    for path in (tmp_path / "shard").iterdir():
        if path.name != "exclusions.csv":
            text = path.read_bytes()
            assert not any(word in text for word in (b"patient 1", b"table.csv", b"secret"))


def test_a_missing_shard_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prepare the pictures first"):
        open_shard(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["images.npy", "meta.json", "part.npy"])
def test_a_damaged_shard_says_what_to_do(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
    name: str,
) -> None:
    prepare(held_source(cases))
    path = tmp_path / "shard" / name
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="prepare the shard again"):
        open_shard(tmp_path / "shard")


def test_an_array_of_objects_is_not_read(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    prepare(held_source(cases))
    np.save(tmp_path / "shard" / "part.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match=r"part\.npy: cannot be read"):
        open_shard(tmp_path / "shard")


def test_arrays_of_different_length_are_refused(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    prepare(held_source(cases))
    np.save(tmp_path / "shard" / "part.npy", np.zeros(3, dtype=np.int8))
    with pytest.raises(DataError, match="differ in length"):
        open_shard(tmp_path / "shard")


def test_lesion_masks_join_regions_of_positive_logits_and_skip_anatomy(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
) -> None:
    task = TASKS["chestx"]
    targets = tuple(1.0 if name in ("Mass", "Nodule") else 0.0 for name in task.labels)
    mass, nodule = task.labels.index("Mass"), task.labels.index("Nodule")
    regions = (
        lesion(label=mass),
        lesion(label=mass, rows=slice(20, 30)),
        lesion(label=task.labels.index("Effusion")),
        lesion(label=EVERY_POSITIVE_LABEL, rows=slice(30, 38)),
        lesion(label=EVERY_POSITIVE_LABEL, kind="organ_mask_lung", rows=slice(0, 40)),
    )
    case = make_case(0, targets=targets, regions=regions, channels=1)
    shard = prepare(held_source([case]), task=task)
    masks = lesion_masks(shard, 0, task)
    stored = [np.asarray(mask) > 0 for mask in shard.region_masks]
    assert set(masks) == {mass, nodule}
    assert (masks[mass] == (stored[0] | stored[1] | stored[3])).all()
    assert (masks[nodule] == stored[3]).all()


def test_a_healthy_retina_has_no_lesion_even_where_one_is_drawn(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
) -> None:
    task = TASKS["retina"]
    cases = [make_case(row, targets=(float(row),), regions=(lesion(),)) for row in range(3)]
    shard = prepare(held_source(cases), task=task)
    assert [set(lesion_masks(shard, row, task)) for row in range(3)] == [set(), {0}, {0}]


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_phantoms_become_a_shard_drawn_at_its_size(
    prepare: Callable[..., Shard], data_config: DataConfig, task: Task
) -> None:
    config = PhantomSource(
        kind="phantom",
        patients=20,
        pictures_per_patient=1,
        scanner_strength=0.5,
        lesion_contrast=1.5,
        roi_fraction=1.0,
        marker_agreement=None,
        prevalence=None,
    )
    source = open_phantom(config, task=task, site="north", seed=1)
    shard = prepare(source, task=task, data=data_config.model_copy(update={"image_size_px": 64}))
    assert (shard.images[0] == source.drawn_at(64).load(0).image).all()
    sick = np.flatnonzero((shard.targets >= 1).any(axis=1)).tolist()
    assert all(lesion_masks(shard, row, task) for row in sick)


def test_memory_does_not_grow_with_the_shard(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
) -> None:
    # Twenty pictures of 1 MB: the writer copies in blocks from disk, threads stay few apart.
    import tracemalloc

    big = make_case(0, size=(600, 600))

    class Endless(held_source):
        def load(self, index: int) -> Case:
            rng = np.random.default_rng(index)
            return replace(big, image=rng.integers(0, 256, (600, 600, 3), dtype=np.uint8))

    tracemalloc.start()
    prepare(Endless([big] * 20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


def test_the_exclusions_are_readable_by_their_owner_alone(
    cases: list[Case],
    held_source: Callable[..., Source],
    prepare: Callable[..., Shard],
    tmp_path: Path,
) -> None:
    prepare(held_source(cases))
    mode = os.stat(Path(tmp_path / "shard" / "exclusions.csv")).st_mode
    assert mode & 0o077 == 0
