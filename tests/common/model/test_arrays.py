import numpy as np
import pytest
import torch
from torch import nn

from common.errors import ModelError
from common.model.arrays import array_names, read_arrays, write_arrays


def a_network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def test_parameters_and_statistics_travel_but_counters_do_not() -> None:
    names = array_names(a_network())

    assert "1.running_mean" in names
    assert "1.num_batches_tracked" not in names


def test_what_is_read_can_be_written_elsewhere() -> None:
    source, target = a_network(), a_network()

    write_arrays(target, read_arrays(source, array_names(source)))

    images = torch.randn(4, 2)
    assert torch.equal(source(images), target(images))


def test_what_was_read_does_not_follow_the_network() -> None:
    network = a_network()
    arrays = read_arrays(network, ["0.bias"])
    before = arrays["0.bias"].copy()

    with torch.no_grad():
        network[0].bias += 1

    np.testing.assert_array_equal(arrays["0.bias"], before)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"2.bias": np.zeros(3, np.float32)}, "'2.bias' is not part of this network"),
        ({"0.bias": np.zeros(4, np.float32)}, r"shape \(4,\), this network needs \(3,\)"),
    ],
)
def test_arrays_that_do_not_fit_are_named(arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        write_arrays(a_network(), arrays)
