"""A small source held in memory, and the settings that prepare it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from common.config.run import (
    AugmentConfig,
    DataConfig,
    DuplicateConfig,
    PreprocessConfig,
    ReferenceSplitConfig,
    SplitConfig,
)
from common.datasets.record import Case, CaseRegion, Exclusion
from common.errors import DataError


@dataclass(frozen=True)
class HeldSource:
    """Cases held in memory; those in ``broken`` cannot be read."""

    cases: Sequence[Case]
    exclusions: Sequence[Exclusion] = ()
    broken: frozenset[int] = frozenset()
    splits: Sequence[str | None] | None = None
    name: str | None = None
    reads: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.cases)

    def patient(self, index: int) -> str:
        return self.cases[index].patient

    def targets(self, index: int) -> tuple[float, ...]:
        return self.cases[index].targets

    def load(self, index: int) -> Case:
        self.reads.append(index)
        if index in self.broken:
            raise DataError(f"secret-{index}.png: cannot be read; copy the file again.")
        return self.cases[index]

    def identity(self) -> str | None:
        return self.name

    def official_split(self, index: int) -> str | None:
        return None if self.splits is None else self.splits[index]


@pytest.fixture
def held_source() -> type[HeldSource]:
    return HeldSource


@pytest.fixture
def make_case() -> Callable[..., Case]:
    def make(
        number: int,
        *,
        patient: str | None = None,
        targets: tuple[float, ...] = (0.0,),
        regions: tuple[CaseRegion, ...] = (),
        size: tuple[int, int] = (40, 40),
        channels: int = 3,
    ) -> Case:
        pixels = np.random.default_rng(number).integers(0, 256, (*size, channels), dtype=np.uint8)
        return Case(
            image=pixels,
            patient=patient or f"p{number}",
            site="here",
            targets=targets,
            regions=regions,
            row=f"table.csv row {number + 1}",
        )

    return make


@pytest.fixture
def duplicate_config() -> DuplicateConfig:
    return DuplicateConfig(near_distance_bits=8, near_correlation=0.94, conflicts="exclude")


@pytest.fixture
def data_config(duplicate_config: DuplicateConfig) -> DataConfig:
    plain = PreprocessConfig(
        contrast_percentiles=None,
        clahe_clip_limit=0.0,
        clahe_tiles=8,
        crop_dark_border=False,
        stain_normalisation="none",
    )
    still = AugmentConfig(
        rotation_deg=0.0,
        translate_fraction=0.0,
        scale=(1.0, 1.0),
        shear_deg=0.0,
        horizontal_flip=0.0,
        vertical_flip=0.0,
        elastic_alpha_px=0.0,
        elastic_sigma_px=16.0,
        brightness=0.0,
        contrast=0.0,
    )
    tasks = ("chestx", "retina", "pathoscan")
    return DataConfig(
        image_size_px=32,
        split=SplitConfig(train=0.8, val=0.1, test=0.1),
        reference_split=ReferenceSplitConfig(selection=0.5, calibration=0.25, gate=0.25),
        duplicates=duplicate_config,
        preprocess=dict.fromkeys(tasks, plain),
        augment=dict.fromkeys(tasks, still),
        pools={},
    )
