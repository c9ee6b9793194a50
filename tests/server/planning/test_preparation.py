"""All shards of a run from its YAML: what is refused, what is shared out, what is reopened."""

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.reading import LoadedConfig, load_config
from common.datasets.shard import Shard
from common.errors import ConfigError, DataError
from server.planning.preparation import (
    Shards,
    open_sources,
    prepare_reference,
    prepare_shards,
)

DEMO = Path(__file__).parents[3] / "configs" / "experiments" / "demo.yaml"
PLACES = ("north", "harbour", "reference-chestx")


def phantom(patients: int) -> str:
    return (
        f"{{kind: phantom, patients: {patients}, pictures_per_patient: 1, scanner_strength: 0.5, "
        "lesion_contrast: 1.5, roi_fraction: 0.5, marker_agreement: null, prevalence: null}"
    )


def share(of: str, part: float) -> str:
    return f"{{kind: pool, pool: {of}, share: {part}}}"


def manifest(table: str) -> str:
    return (
        f"{{kind: manifest, table: {table}, images: null, columns: {{image: image, "
        "labels: labels, patient: patient, site: null, roi_mask: null, roi_boxes: null, "
        "roi_kind: null, official_split: null}, where: {}, label_separator: '|', "
        "mapping: labels/nih.yaml}"
    )


def chest_run(sources: Sequence[str], *overrides: str) -> LoadedConfig:
    """Two chest sites and their reference set; ``sources`` in the order of PLACES."""
    north, harbour, reference = sources
    values = [
        "tasks={chestx: {labels: [Effusion, Mass, Nodule]}}",
        "data.image_size_px=64",
        "model.image_size_px=64",
        f"sites=[{{name: north, task: chestx, source: {north}}}, "
        f"{{name: harbour, task: chestx, source: {harbour}}}]",
        f"reference={{chestx: {{source: {reference}}}}}",
        f"data.pools={{lake: {{task: chestx, sources: [{phantom(16)}]}}}}",
    ]
    return load_config(DEMO, [*values, *overrides])


POOLED = (share("lake", 0.4), share("lake", 0.3), share("lake", 0.3))


class Told:
    """Keeps what a watcher of the preparation is told."""

    def __init__(self) -> None:
        self.last: dict[str, tuple[int, int]] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        self.last[name] = (done, total)


def unwatched(name: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Pooled:
    """A run whose places share one pool, prepared; tests read it and leave it as it is."""

    folder: Path
    shards: Shards
    told: Told


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Pooled:
    folder, told = tmp_path_factory.mktemp("pooled"), Told()
    shards = prepare_shards(chest_run(POOLED), data_root=None, out=folder, watch=told)
    return Pooled(folder, shards, told)


def pictures(shard: Shard) -> set[bytes]:
    return {np.asarray(shard.images[index]).tobytes() for index in range(len(shard))}


# What cannot be meant


def test_unknown_pool_is_refused_with_the_pools_there_are(tmp_path: Path) -> None:
    loaded = chest_run((share("laek", 0.4), *POOLED[1:]))

    with pytest.raises(ConfigError, match=r"north: there is no pool 'laek' in .* \(has: lake\)"):
        prepare_shards(loaded, data_root=None, out=tmp_path, watch=unwatched)


def test_pool_of_another_task_is_refused(tmp_path: Path) -> None:
    other = f"data.pools={{lake: {{task: retina, sources: [{phantom(8)}]}}}}"

    with pytest.raises(ConfigError, match="is of task chestx, its pool 'lake' of retina"):
        prepare_shards(chest_run(POOLED, other), data_root=None, out=tmp_path, watch=unwatched)


def test_shares_of_more_than_the_whole_pool_are_refused(tmp_path: Path) -> None:
    loaded = chest_run([share("lake", 0.5)] * 3)

    with pytest.raises(DataError, match=r"must sum to at most 1, got 1\.500"):
        prepare_shards(loaded, data_root=None, out=tmp_path, watch=unwatched)


def test_source_of_files_without_a_data_folder_is_refused(tmp_path: Path) -> None:
    loaded = chest_run((phantom(8), manifest("index.csv"), phantom(8)))

    with pytest.raises(ConfigError, match=r"'manifest' of harbour reads files.*--data FOLDER"):
        prepare_shards(loaded, data_root=None, out=tmp_path, watch=unwatched)


def test_data_folder_that_is_not_there_is_refused_even_if_nobody_reads_it(tmp_path: Path) -> None:
    loaded = chest_run([phantom(8)] * 3)

    with pytest.raises(DataError, match="nowhere: no such folder"):
        prepare_shards(loaded, data_root=tmp_path / "nowhere", out=tmp_path, watch=unwatched)


def write_table(folder: Path, name: str, patients: Sequence[str]) -> str:
    rows = ["image,labels,patient"]
    for number, patient in enumerate(patients):
        picture = f"{name}-{number}.png"
        pixels = np.random.default_rng(list(picture.encode())).integers(0, 256, (64, 64), np.uint8)
        Image.fromarray(pixels).save(folder / picture)
        rows.append(f"{picture},Mass,{patient}")
    (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")
    return manifest(f"{name}.csv")


def test_patient_at_two_sites_of_one_task_is_refused_without_a_name(tmp_path: Path) -> None:
    first = write_table(tmp_path, "first", ["ada", "bela", "carl"])
    second = write_table(tmp_path, "second", ["dora", "carl"])
    loaded = chest_run((first, second, phantom(8)))

    with pytest.raises(
        DataError, match=r"^north and harbour share a patient\. Take both"
    ) as caught:
        prepare_shards(loaded, data_root=tmp_path, out=tmp_path / "out", watch=unwatched)

    assert "carl" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# What is shared out


@pytest.mark.parametrize(
    ("patient", "unit", "is_refused"),
    [("null", "patient", True), ("null", "image", False), ("patient", "patient", False)],
)
def test_patients_who_are_not_named_cannot_be_protected(
    tmp_path: Path, patient: str, unit: str, *, is_refused: bool
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = ["image,labels,patient"]
    for number in range(6):
        draw = np.random.default_rng(number)
        pixels = draw.integers(0, 256, (64, 64), dtype=np.uint8)
        Image.fromarray(pixels).save(data / f"{number}.png")
        rows.append(f"{number}.png,Mass,{number // 2}")
    (data / "list.csv").write_text("\n".join(rows))
    source = manifest("list.csv").replace("patient: patient", f"patient: {patient}")
    loaded = chest_run(
        (source, phantom(2), phantom(6)), "privacy.enabled=true", f"privacy.unit={unit}"
    )

    def prepared() -> Shard:
        out = tmp_path / "out"
        return prepare_shards(loaded, data_root=data, out=out, watch=unwatched).sites["north"]

    if is_refused:
        with pytest.raises(DataError, match=r"north.*have no patient.*Name the patient column"):
            prepared()
    else:
        assert len(prepared()) == 6


def test_no_patient_of_a_pool_is_at_two_places(tmp_path: Path) -> None:
    sources = open_sources(chest_run(POOLED), PLACES, data_root=None, out=tmp_path, watch=unwatched)

    patients = {name: {s.patient(i) for i in range(len(s))} for name, s in sources.items()}
    assert list(patients) == list(PLACES)
    assert all(patients.values())
    assert len(set.union(*patients.values())) == sum(map(len, patients.values())) == 16


def test_no_picture_of_the_reference_set_is_at_a_site(pooled: Pooled) -> None:
    shards = pooled.shards

    reference = pictures(shards.reference["chestx"])
    assert len(reference) == len(shards.reference["chestx"]) > 0
    for site in ("north", "harbour"):
        assert pictures(shards.sites[site]).isdisjoint(reference)
    assert shards.site_folders == {
        "north": pooled.folder / "shards" / "north",
        "harbour": pooled.folder / "shards" / "harbour",
    }


def test_coordinator_alone_prepares_the_reference_set_it_has_beside_all_sites(
    pooled: Pooled, tmp_path: Path
) -> None:
    alone = prepare_reference(
        chest_run(POOLED), data_root=None, out=tmp_path / "alone", watch=unwatched
    )

    assert pictures(alone["chestx"]) == pictures(pooled.shards.reference["chestx"])
    folders = [path.name for path in (tmp_path / "alone/shards").iterdir() if path.is_dir()]
    assert folders == ["reference-chestx"]


def test_coordinator_alone_needs_none_of_the_sites_files(tmp_path: Path) -> None:
    loaded = chest_run((manifest("theirs.csv"), manifest("others.csv"), phantom(8)))

    assert prepare_reference(loaded, data_root=None, out=tmp_path, watch=unwatched).keys() == {
        "chestx"
    }


# What is reopened


def test_shards_that_are_there_are_reopened_without_reading_a_picture(tmp_path: Path) -> None:
    loaded, first, again = chest_run([phantom(8)] * 3), Told(), Told()

    before = prepare_shards(loaded, data_root=None, out=tmp_path, watch=first)
    after = prepare_shards(loaded, data_root=None, out=tmp_path, watch=again)

    assert first.last == dict.fromkeys(PLACES, (8, 8))
    assert again.last == {}
    assert pictures(after.sites["north"]) == pictures(before.sites["north"])


def test_another_seed_prepares_every_shard_anew(tmp_path: Path) -> None:
    told = Told()

    prepare_shards(chest_run([phantom(8)] * 3), data_root=None, out=tmp_path, watch=unwatched)
    prepare_shards(chest_run([phantom(8)] * 3, "seed=7"), data_root=None, out=tmp_path, watch=told)

    assert told.last == dict.fromkeys(PLACES, (8, 8))


def test_shares_of_a_pool_are_reopened_without_looking_through_it_again(pooled: Pooled) -> None:
    again = Told()

    after = prepare_shards(chest_run(POOLED), data_root=None, out=pooled.folder, watch=again)

    assert pooled.told.last["pool lake"] == (16, 16)
    assert again.last == {}
    assert pictures(after.sites["north"]) == pictures(pooled.shards.sites["north"])


def test_pool_is_looked_through_again_where_pictures_or_thresholds_differ(
    pooled: Pooled, tmp_path: Path
) -> None:
    stricter, damaged, out = Told(), Told(), tmp_path / "out"
    shutil.copytree(pooled.folder, out)

    loaded = chest_run(POOLED, "data.duplicates.near_distance_bits=7")
    prepare_shards(loaded, data_root=None, out=out, watch=stricter)
    for kept in (out / "shards").glob(".scan-*"):
        kept.write_text("{")
    prepare_shards(loaded, data_root=None, out=out, watch=damaged)

    assert stricter.last["pool lake"] == damaged.last["pool lake"] == (16, 16)


# No picture at two places


def copy_picture(folder: Path, source: str, target: str, *, touched: bool = False) -> None:
    with Image.open(folder / source) as opened:
        pixels = np.array(opened)
    pixels[0, 0] ^= int(touched)
    Image.fromarray(pixels).save(folder / target)


@pytest.mark.parametrize("touched", [False, True], ids=["equal", "near"])
def test_picture_at_a_site_and_in_the_reference_set_is_refused(
    tmp_path: Path, touched: bool
) -> None:
    first = write_table(tmp_path, "first", [f"a{row}" for row in range(8)])
    second = write_table(tmp_path, "second", [f"b{row}" for row in range(8)])
    copy_picture(tmp_path, "first-3.png", "second-5.png", touched=touched)
    loaded = chest_run((first, phantom(8), second))

    for _ in ("prepared", "reopened"):
        with pytest.raises(
            DataError, match=r"^reference-chestx and north share 1 picture .*Take both from one"
        ) as caught:
            prepare_shards(loaded, data_root=tmp_path, out=tmp_path / "out", watch=unwatched)

    assert ".png" not in str(caught.value)
    listing = tmp_path / "out/shards/shared-pictures.csv"
    assert listing.stat().st_mode & 0o777 == 0o600
    assert listing.read_text().splitlines()[1:] == [
        "reference-chestx,second.csv row 7,north,first.csv row 5"
    ]


def test_picture_in_a_pool_and_at_a_site_beside_it_is_refused(tmp_path: Path) -> None:
    pooled = write_table(tmp_path, "pooled", [f"a{row}" for row in range(16)])
    beside = write_table(tmp_path, "beside", [f"b{row}" for row in range(8)])
    copy_picture(tmp_path, "pooled-3.png", "beside-5.png")
    pool = f"data.pools={{lake: {{task: chestx, sources: [{pooled}]}}}}"
    loaded = chest_run((share("lake", 0.5), beside, share("lake", 0.5)), pool)

    with pytest.raises(DataError, match=r"^(north|reference-chestx) and harbour share 1 picture "):
        prepare_shards(loaded, data_root=tmp_path, out=tmp_path / "out", watch=unwatched)


def test_places_without_a_common_picture_are_prepared(tmp_path: Path) -> None:
    tables = [
        write_table(tmp_path, name, [f"{name}{row}" for row in range(8)])
        for name in ("a", "b", "c")
    ]
    out = tmp_path / "out"
    shards = prepare_shards(chest_run(tables), data_root=tmp_path, out=out, watch=unwatched)
    assert [len(shard) for shard in shards.sites.values()] == [8, 8]
    assert not (out / "shards/shared-pictures.csv").exists()


def test_shard_without_its_signatures_is_prepared_anew(tmp_path: Path) -> None:
    loaded, told = chest_run([phantom(8)] * 3), Told()
    prepare_shards(loaded, data_root=None, out=tmp_path, watch=unwatched)
    (tmp_path / "shards/north/signatures.npy").unlink()

    prepare_shards(loaded, data_root=None, out=tmp_path, watch=told)

    assert told.last == {"north": (8, 8)}


# What is left out


@pytest.mark.parametrize("pooled", [False, True])
def test_damaged_picture_is_listed_with_its_row_of_the_table(tmp_path: Path, pooled: bool) -> None:
    table = write_table(tmp_path, "table", [f"a{row}" for row in range(16)])
    (tmp_path / "table-5.png").write_bytes(b"not a picture")
    pool = f"data.pools={{lake: {{task: chestx, sources: [{phantom(4)}, {table}]}}}}"
    sources = POOLED if pooled else (table, phantom(8), phantom(8))

    prepare_shards(
        chest_run(sources, pool), data_root=tmp_path, out=tmp_path / "out", watch=unwatched
    )

    rows = [
        row["row"]
        for path in (tmp_path / "out/shards").glob("*/exclusions.csv")
        for row in csv.DictReader(path.read_text().splitlines())
    ]
    assert rows == ["table.csv row 7"]


# Phantoms that cannot be drawn


def test_size_at_which_no_phantom_is_drawn_names_a_site(tmp_path: Path) -> None:
    loaded = chest_run([phantom(8)] * 3, "data.image_size_px=48", "model.image_size_px=48")
    with pytest.raises(ConfigError, match=r"north has phantoms.*data\.image_size_px is 48"):
        prepare_shards(loaded, data_root=None, out=tmp_path, watch=unwatched)


def test_prevalence_that_cannot_be_names_the_site(tmp_path: Path) -> None:
    loaded = chest_run([phantom(8)] * 3, "sites.1.source.prevalence={Masss: 0.5}")
    with pytest.raises(ConfigError, match=r"^phantoms of harbour: .*Did you mean 'Mass'"):
        prepare_shards(loaded, data_root=None, out=tmp_path, watch=unwatched)
