"""A hospital's home for each test, under a path short enough for a socket."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client.desk.desk import Desk
from common.config.run import RunConfig
from common.datasets.card import DataCard, DuplicateCount, PartCount, PixelRange
from common.messages.kinds import SiteCard
from hospital import CountingTrainer, Hospital, make_hospital

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="session")
def door_config(make_config: MakeConfig) -> RunConfig:
    return make_config("federation.rounds=4", "train.epochs=1")


@pytest.fixture
def short_path() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="fovea-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def hospital(short_path: Path, door_config: RunConfig) -> Hospital:
    return make_hospital(short_path / "site", config=door_config)


@pytest.fixture
def trainer() -> CountingTrainer:
    parts = (PartCount("train", 14, 14, (), 3), PartCount("val", 4, 4, (), 1))
    size = PixelRange(64, 64, 64)
    none = DuplicateCount(0, 0, 0, 0, 0, 0)
    card = DataCard("chestx", 64, 18, 18, parts, (), size, size, {}, none, ())
    return CountingTrainer(SiteCard("north", "chestx", 14, 4, card.as_json()))


@pytest.fixture
def desk(hospital: Hospital, trainer: CountingTrainer) -> Desk:
    return hospital.desk(trainer)
