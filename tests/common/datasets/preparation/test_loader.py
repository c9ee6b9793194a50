"""Batches hold what the shard holds: pictures, targets, and regions on the token grid."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config.run import AugmentConfig, DataConfig
from common.datasets.loader import batches, eval_batches, make_batch
from common.datasets.prepare import prepare_shard
from common.datasets.record import EVERY_POSITIVE_LABEL, Case, CaseRegion, Source
from common.datasets.sample import Batch
from common.datasets.shard import Shard, concept_masks, lesion_masks
from common.datasets.transforms import Augmentation, denormalise
from common.errors import DataError
from common.tasks import TASKS, task_named

TASK = task_named("chestx", ("Effusion", "Mass"))
GRID = (4, 4)


@pytest.fixture
def shard(
    make_case: Callable[..., Case],
    held_source: Callable[..., Source],
    data_config: DataConfig,
    tmp_path: Path,
) -> Shard:
    """32-px pictures that equal their own lesion mask: Mass at odd, all that is positive at 3."""
    cases = []
    for row in range(20):
        mask = np.zeros((32, 32), dtype=np.bool_)
        mask[row : row + 9, 4 : 20 - row // 2] = True
        label = EVERY_POSITIVE_LABEL if row == 3 else 1
        region = CaseRegion(kind="lesion_mask", name="mass", label=label, mask=mask)
        case = make_case(row, targets=(float(row % 3 == 0), float(row % 2)), channels=1)
        cases.append(
            type(case)(
                **{
                    **vars(case),
                    "image": (mask * 255).astype(np.uint8)[..., None],
                    "regions": (region,) if row > 1 else (),
                }
            )
        )
    duplicates = data_config.duplicates.model_copy(update={"conflicts": "keep"})
    return prepare_shard(
        held_source(cases),
        task=TASK,
        parts={"train": 0.6, "val": 0.2, "test": 0.2},
        data=data_config.model_copy(update={"duplicates": duplicates}),
        seed=0,
        out=tmp_path / "shard",
    )


@pytest.fixture
def lively(data_config: DataConfig) -> AugmentConfig:
    return data_config.augment["chestx"].model_copy(
        update={
            "rotation_deg": 30.0,
            "translate_fraction": 0.1,
            "elastic_alpha_px": 2.0,
            "horizontal_flip": 0.5,
        }
    )


def epoch(
    shard: Shard,
    part: str = "train",
    *,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    **options: bool,
) -> list[Batch]:
    return list(
        batches(
            shard, part, task=TASK, batch_size=5, grid=GRID, augment=augment, seed=seed, **options
        )
    )


def test_an_epoch_delivers_every_picture_once(shard: Shard) -> None:
    found = torch.cat([batch.target for batch in epoch(shard)]).numpy()
    expected = shard.targets[shard.indices("train")]
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))
    assert [len(batch) for batch in epoch(shard)] == [5, 5, 2]


def test_equal_seeds_give_equal_epochs(shard: Shard, lively: AugmentConfig) -> None:
    one, two = (epoch(shard, augment=lively, seed=4) for _ in range(2))
    assert all(torch.equal(a.image, b.image) for a, b in zip(one, two, strict=True))


def test_another_seed_gives_another_order(shard: Shard) -> None:
    one, two = (torch.cat([b.image for b in epoch(shard, seed=seed)]) for seed in (0, 1))
    assert not torch.equal(one, two)


def test_a_grey_picture_is_repeated_over_three_channels(shard: Shard) -> None:
    image = denormalise(epoch(shard)[0].image)
    assert image.shape[1] == 3
    assert torch.allclose(image[:, 0], image[:, 2], atol=1e-6)


def test_coverage_is_the_share_of_each_cell(shard: Shard) -> None:
    batch = make_batch(shard, np.array([5]), task=TASK, grid=GRID)
    mask = lesion_masks(shard, 5, TASK)[1]
    expected = mask.reshape(4, 8, 4, 8).mean(axis=(1, 3))
    assert np.allclose(batch.roi_coverage[0, 1].numpy(), expected)


def test_signs_are_asserted_by_their_regions_and_otherwise_unknown(shard: Shard) -> None:
    batch = make_batch(shard, np.arange(20), task=TASK, grid=GRID)
    mass = TASK.concepts.index("mass")
    assert batch.concept_target[2:, mass].eq(1).all()
    assert batch.concept_target[:2].isnan().all()
    assert batch.concept_target[:, :mass].isnan().all()
    expected = concept_masks(shard, 4, TASK)[mass].reshape(4, 8, 4, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(batch.concept_coverage[4, mass].numpy(), expected)
    assert not batch.concept_coverage[:, :mass].any()


def test_a_shard_that_looked_for_no_signs_says_nothing_of_them(shard: Shard) -> None:
    silent = replace(shard, concepts=np.zeros((0, 0), np.float32), concept_names=())
    batch = make_batch(silent, np.arange(3), task=TASK, grid=GRID)
    assert batch.concept_target.shape == (3, 0)
    assert batch.concept_coverage.shape == (3, 0, *GRID)


def test_a_shard_of_another_vocabulary_is_refused(shard: Shard) -> None:
    other = replace(shard, concept_names=("fracture",))
    with pytest.raises(DataError, match="prepare it again"):
        make_batch(other, np.arange(3), task=TASK, grid=GRID)


def test_only_positive_logits_with_a_region_have_an_roi(shard: Shard) -> None:
    batch = make_batch(shard, np.arange(20), task=TASK, grid=GRID)
    mass = [row % 2 == 1 and row > 1 for row in range(20)]
    assert batch.has_roi[:, 1].tolist() == mass
    assert batch.has_roi[:, 0].tolist() == [row == 3 for row in range(20)]
    assert not batch.roi_coverage[~batch.has_roi].any()


@pytest.mark.parametrize("seed", range(5))
def test_picture_and_roi_move_together(shard: Shard, lively: AugmentConfig, seed: int) -> None:
    random = Augmentation(lively, torch.Generator().manual_seed(seed))
    rows = np.arange(3, 20, 2)
    batch = make_batch(shard, rows, task=TASK, grid=(32, 32), augmentation=random)
    shown = denormalise(batch.image)[:, 0]
    assert torch.allclose(shown, batch.roi_coverage[:, 1], atol=1e-4)
    mass = TASK.concepts.index("mass")
    assert torch.allclose(shown, batch.concept_coverage[:, mass], atol=1e-4)


def test_a_lesion_moved_out_of_view_is_no_roi(shard: Shard, lively: AugmentConfig) -> None:
    far = lively.model_copy(update={"scale": (8.0, 8.0), "rotation_deg": 180.0})
    random = Augmentation(far, torch.Generator().manual_seed(0))
    batch = make_batch(shard, np.array([19, 19, 19, 19]), task=TASK, grid=GRID, augmentation=random)
    seen = batch.roi_coverage[:, 1].sum(dim=(1, 2)) > 0
    assert torch.equal(batch.has_roi[:, 1], seen)
    assert not seen.all()


def test_evaluation_is_in_order_and_says_which_pictures(shard: Shard) -> None:
    found = list(eval_batches(shard, "val", task=TASK, batch_size=3, grid=GRID))
    rows = np.concatenate([indices for _, indices in found])
    assert (rows == shard.indices("val")).all()
    images = torch.cat([denormalise(batch.image)[:, :1] for batch, _ in found])
    expected = torch.from_numpy(shard.images[rows]).permute(0, 3, 1, 2) / 255
    assert torch.allclose(images, expected, atol=1e-6)


def test_no_pictures_make_an_empty_batch(shard: Shard, lively: AugmentConfig) -> None:
    random = Augmentation(lively, torch.Generator())
    batch = make_batch(
        shard, np.zeros(0, dtype=np.int64), task=TASK, grid=GRID, augmentation=random
    )
    assert (len(batch), batch.has_roi.shape) == (0, (0, 2))


def test_a_shard_of_other_labels_is_refused(shard: Shard) -> None:
    with pytest.raises(DataError, match="prepare it again with this configuration"):
        make_batch(shard, np.array([0]), task=TASKS["chestx"], grid=GRID)


def test_an_unknown_part_is_refused(shard: Shard) -> None:
    with pytest.raises(DataError, match="no part 'gate', only train, val, test"):
        epoch(shard, "gate")
