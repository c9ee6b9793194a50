"""Preparing a site: a re-run reads what changed, a killed run goes on, damage is found."""

import fcntl
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from PIL import Image

from client.home.folders import SiteHome
from client.home.site import SiteSettings
from client.operations.prepare import PreparedSite, prepare_site
from common.datasets.checksums import verify_shard
from common.datasets.prepare import prepare_shard
from common.datasets.shard import Shard, open_shard
from common.errors import ConfigError, DataError, SiteError

PATIENTS = 24

PREPARE_SLOWLY = """
import sys, time
from pathlib import Path
from client.home.folders import SiteHome
from client.operations.prepare import prepare_site
from client.home.site import read_site

def watch(done, total):
    print(done, flush=True)
    time.sleep(0.1)

home = SiteHome(Path(sys.argv[1]))
prepare_site(home, read_site(home.site_file), watch=watch)
"""


class Hospital(Protocol):
    """What conftest.py makes."""

    home: SiteHome
    data: Path
    rows: list[dict[str, str]]
    site: SiteSettings

    def write_table(self) -> None: ...

    def change_site(self, **values: object) -> None: ...


def silent(done: int, total: int) -> None:
    pass


def prepare(hospital: Hospital, *, verify: bool = False) -> PreparedSite:
    return prepare_site(hospital.home, hospital.site, watch=silent, verify=verify)


def arrays(shard: Shard) -> list[Any]:
    return [
        np.asarray(array)
        for array in (
            shard.images, shard.targets, shard.patients, shard.part, shard.region_masks,
            shard.region_image, shard.region_label,
        )
    ]  # fmt: skip


def assert_equal_shards(one: Shard, other: Shard) -> None:
    for mine, its in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(mine, its)
    assert (one.region_kind, one.card.as_json()) == (other.region_kind, other.card.as_json())


def store_file(hospital: Hospital) -> Path:
    return Path(hospital.home.picture_store / "pictures.sqlite")


def test_the_first_run_reads_every_picture_and_seals_the_shard(hospital: Hospital) -> None:
    told: list[tuple[int, int]] = []
    prepared = prepare_site(
        hospital.home, hospital.site, watch=lambda done, total: told.append((done, total))
    )
    assert (prepared.read_anew, prepared.from_store) == (PATIENTS, 0)
    assert told == [(done, PATIENTS) for done in range(1, PATIENTS + 1)]
    assert len(prepared.shard) == PATIENTS
    assert len(prepared.shard.region_kind) > 4
    assert verify_shard(hospital.home.shard) == []


def test_nothing_is_read_where_nothing_changed(hospital: Hospital) -> None:
    prepare(hospital)
    again = prepare(hospital)
    assert (again.read_anew, again.from_store) == (0, 0)


def test_the_store_gives_the_very_shard_that_reading_gives(hospital: Hospital) -> None:
    first = prepare(hospital)
    kept = arrays(first.shard)
    again = prepare(hospital, verify=True)
    assert (again.read_anew, again.from_store) == (0, PATIENTS)
    for mine, its in zip(kept, arrays(again.shard), strict=True):
        np.testing.assert_array_equal(mine, its)


def test_preparing_without_a_store_gives_the_same_shard(hospital: Hospital, tmp_path: Path) -> None:
    from client.operations.prepare import _Recipe, open_site_source, site_task
    from common.machine.seed import derive_seed

    site = hospital.site
    with_store = prepare(hospital)
    without = prepare_shard(
        open_site_source(hospital.home, site),
        task=site_task(site),
        parts=site.preparation.split.model_dump(),
        data=_Recipe(
            site.preparation.image_size_px,
            site.preparation.duplicates,
            {site.task: site.preparation.preprocess},
        ),
        seed=derive_seed(site.preparation.seed, "split", site.name),
        out=tmp_path / "plain",
    )
    assert_equal_shards(with_store.shard, without)


def test_one_changed_file_is_the_only_one_read(hospital: Hospital) -> None:
    prepare(hospital)
    path = hospital.data / hospital.rows[1]["image"]
    pixels = np.asarray(Image.open(path)).copy()
    pixels[:20, :20] = 0
    Image.fromarray(pixels).save(path)
    again = prepare(hospital)
    assert (again.read_anew, again.from_store) == (1, PATIENTS - 1)
    assert verify_shard(hospital.home.shard) == []


def test_a_changed_mask_is_read_with_its_picture(hospital: Hospital) -> None:
    before = prepare(hospital).shard
    masks_before = np.asarray(before.region_masks).copy()
    row = next(row for row in hospital.rows if row["mask"])
    Image.fromarray(np.full((96, 96), 255, dtype=np.uint8)).save(hospital.data / row["mask"])
    again = prepare(hospital)
    assert (again.read_anew, again.from_store) == (1, PATIENTS - 1)
    assert np.asarray(again.shard.region_masks).sum() > masks_before.sum()


def test_a_changed_box_is_read_with_its_picture(hospital: Hospital) -> None:
    prepare(hospital)
    row = next(row for row in hospital.rows if row["boxes"])
    row["boxes"] = "[[1, 1, 5, 5]]"
    hospital.write_table()
    assert prepare(hospital).read_anew == 1


def test_changed_labels_and_patients_read_no_picture(hospital: Hospital) -> None:
    before = prepare(hospital).shard.targets.copy()
    changed = next(row for row in hospital.rows if row["kind"] == "none")
    changed["labels"] = "tumour"
    without_region = next(row for row in hospital.rows if row["mask"])
    without_region |= {"labels": "clean", "mask": "", "kind": "none"}
    hospital.rows[3]["patient"] = "another"
    hospital.write_table()
    again = prepare(hospital)
    assert (again.read_anew, again.from_store) == (0, PATIENTS)
    assert (again.shard.targets != before).sum() == 2


def test_a_touched_file_is_hashed_and_not_read(hospital: Hospital) -> None:
    prepare(hospital)
    os.utime(hospital.data / hospital.rows[2]["image"], ns=(1, 1))
    again = prepare(hospital)
    assert (again.read_anew, again.from_store) == (0, PATIENTS)


def test_a_moved_picture_folder_is_not_read_again(hospital: Hospital, tmp_path: Path) -> None:
    prepare(hospital)
    shutil.move(hospital.data, tmp_path / "elsewhere")
    hospital.change_site(data=str(tmp_path / "elsewhere"))
    assert prepare(hospital).read_anew == 0


def test_verify_finds_a_file_that_changed_behind_its_time(hospital: Hospital) -> None:
    path = hospital.data / "picture-0.dcm"
    prepare(hospital)
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-2000:-1000] = bytes(1000)
    with path.open("r+b") as stream:  # the same inode
        stream.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert prepare(hospital).read_anew == 0
    assert prepare(hospital, verify=True).read_anew == 1


def test_another_size_reads_all_and_forgets_the_former(hospital: Hospital) -> None:
    prepare(hospital)
    hospital.change_site(preparation__image_size_px=32)
    assert prepare(hospital).read_anew == PATIENTS
    with sqlite3.connect(store_file(hospital)) as database:
        assert database.execute("SELECT COUNT(*) FROM pictures").fetchone() == (PATIENTS,)


def test_a_picture_taken_out_of_the_table_is_erased_from_the_store(hospital: Hospital) -> None:
    prepare(hospital)
    size = store_file(hospital).stat().st_size
    del hospital.rows[8:]
    hospital.write_table()
    assert len(prepare(hospital).shard) == 8
    with sqlite3.connect(store_file(hospital)) as database:
        assert database.execute("SELECT COUNT(*) FROM pictures").fetchone() == (8,)
    assert store_file(hospital).stat().st_size < 0.6 * size


def test_a_killed_run_goes_on_where_it_was(hospital: Hospital) -> None:
    command = [sys.executable, "-c", PREPARE_SLOWLY, str(hospital.home.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < 6:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not hospital.home.shard.exists()
    prepared = prepare(hospital)
    assert prepared.from_store >= 6
    assert prepared.read_anew == PATIENTS - prepared.from_store
    assert verify_shard(hospital.home.shard) == []
    assert [path.name for path in hospital.home.trainer.glob(".shard*")] == []


def test_the_former_shard_stays_until_the_new_one_is_whole(hospital: Hospital) -> None:
    prepare(hospital)
    hospital.change_site(preparation__image_size_px=32)

    def interrupted(done: int, total: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_site(hospital.home, hospital.site, watch=interrupted)
    assert open_shard(hospital.home.shard).images.shape[1] == 48
    assert prepare(hospital).from_store >= 10


def test_a_run_killed_while_exchanging_shards_leaves_one(hospital: Hospital) -> None:
    prepare(hospital)
    hospital.home.shard.rename(hospital.home.trainer / ".shard.former")
    again = prepare(hospital)
    assert (again.read_anew, again.from_store) == (0, 0)
    assert verify_shard(hospital.home.shard) == []


def test_a_damaged_kept_picture_is_found_and_read_anew(hospital: Hospital) -> None:
    prepare(hospital)
    with sqlite3.connect(store_file(hospital)) as database:
        (key, content) = database.execute("SELECT key, content FROM pictures").fetchone()
        broken = content[:-1] + bytes([content[-1] ^ 1])
        database.execute("UPDATE pictures SET content = ? WHERE key = ?", (broken, key))
    again = prepare(hospital, verify=True)
    assert (again.read_anew, again.damaged, again.from_store) == (1, 1, PATIENTS - 1)


def test_a_store_that_is_no_longer_one_is_made_anew(hospital: Hospital) -> None:
    prepare(hospital)
    store_file(hospital).write_bytes(b"not a database" * 1000)
    again = prepare(hospital, verify=True)
    assert (again.read_anew, again.from_store) == (PATIENTS, 0)


def test_a_picture_that_cannot_be_read_is_counted_and_tried_again(hospital: Hospital) -> None:
    path = hospital.data / hospital.rows[1]["image"]
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    first = prepare(hospital)
    assert first.excluded == {"picture or mask cannot be used": 1}
    assert "secret" not in first.shard.card.as_json()
    path.write_bytes(whole)
    again = prepare(hospital)
    assert (again.read_anew, len(again.shard)) == (1, PATIENTS)


def test_store_and_exclusions_are_for_their_owner_alone(hospital: Hospital) -> None:
    hospital.rows[1]["labels"] = "unheard of"
    hospital.write_table()
    prepare(hospital)
    home = hospital.home
    assert stat.S_IMODE(home.picture_store.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.shard.stat().st_mode) == 0o700
    for path in (*home.picture_store.iterdir(), home.shard / "exclusions.csv"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert b"picture-" not in store_file(hospital).read_bytes()


def test_two_preparations_do_not_run_at_once(hospital: Hospital) -> None:
    with (hospital.home.trainer / "prepare.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SiteError, match="another"):
            prepare(hospital)


def test_too_small_a_disk_is_said_before_anything_is_read(hospital: Hospital) -> None:
    hospital.change_site(limits__min_free_disk_mb=10**9)
    with pytest.raises(DataError, match="GB are free"):
        prepare(hospital)


def test_a_full_disk_does_not_stop_a_shard_that_is_up_to_date(hospital: Hospital) -> None:
    prepare(hospital)
    hospital.change_site(limits__min_free_disk_mb=10**9)
    assert prepare(hospital).read_anew == 0


def test_a_source_of_files_needs_a_folder(hospital: Hospital) -> None:
    hospital.change_site(data=None)
    with pytest.raises(ConfigError, match=r"site\.yaml: data: "):
        prepare(hospital)


def test_a_known_sources_label_table_comes_with_fovea(hospital: Hospital) -> None:
    hospital.change_site(source__mapping="labels/ebhi.yaml")
    with pytest.raises(DataError, match="no picture can be used"):
        prepare(hospital)


def test_phantoms_are_drawn_without_a_folder(hospital: Hospital) -> None:
    source = {
        "kind": "phantom", "patients": 12, "pictures_per_patient": 1, "scanner_strength": 0.0,
        "lesion_contrast": 1.0, "roi_fraction": 1.0, "marker_agreement": None, "prevalence": None,
    }  # fmt: skip
    hospital.change_site(source=source, data=None, preparation__image_size_px=64)
    prepared = prepare(hospital)
    assert (prepared.read_anew, len(prepared.shard)) == (12, 12)


def test_many_threads_keep_every_picture_once(
    new_hospital: Callable[..., Any], tmp_path: Path
) -> None:
    hospital = new_hospital(tmp_path / "other", patients=40)
    began = time.monotonic()
    assert prepare(hospital).read_anew == 40
    assert prepare(hospital, verify=True).from_store == 40
    assert time.monotonic() - began < 60
