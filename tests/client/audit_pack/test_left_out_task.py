"""An audit pack is not made with a task that the model's package leaves out, and says why."""

import numpy as np
import pytest

from client.audit_pack.writing import fitting_task
from common.datasets.card import DataCard, DuplicateCount, PixelRange
from common.datasets.shard import SITE_PARTS, Shard
from common.errors import DataError
from common.package.loading import LoadedModel
from small_model import small_model

SIDE = PixelRange(64, 64, 64)
NONE = DuplicateCount(0, 0, 0, 0, 0, 0)


def retina_shard() -> Shard:
    return Shard(
        task="retina",
        labels=("0 none", "1 mild", "2 moderate", "3 severe", "4 proliferative"),
        images=np.zeros((1, 64, 64, 3), np.uint8),
        targets=np.zeros((1, 1), np.float32),
        patients=np.zeros(1, np.int32),
        part=np.zeros(1, np.int8),
        parts=SITE_PARTS,
        region_masks=np.zeros((0, 64, 64), np.uint8),
        region_image=np.zeros(0, np.int32),
        region_label=np.zeros(0, np.int16),
        region_kind=(),
        region_name=(),
        card=DataCard("retina", 64, 1, 1, (), (), SIDE, SIDE, {}, NONE, ()),
    )


def test_the_reason_is_told_before_any_picture_is_looked_at() -> None:
    whole = small_model()
    assert fitting_task(whole, retina_shard()).name == "retina"
    tasks = {name: about for name, about in whole.package.tasks.items() if name != "retina"}
    package = whole.package.model_copy(
        update={"tasks": tasks, "left_out": {"retina": "Its head stays at its sites."}}
    )
    model = LoadedModel(whole.network, package, {})
    with pytest.raises(DataError, match=r"run small does not answer task retina: Its head stays"):
        fitting_task(model, retina_shard())
