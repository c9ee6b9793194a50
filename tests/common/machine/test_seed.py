"""One seed decides every random number; torchvision imports beside any torch."""

import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from common.machine.seed import derive_seed, generator, seed_everything

DRAWS_WITH_REAL_OPERATOR = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.impl("nms", lambda dets, scores, iou_threshold: scores + 1, "CPU")
import common.machine.torchvision_ops
assert common.machine.torchvision_ops.DECLARED is None
print(torch.ops.torchvision.nms(torch.zeros(1, 4), torch.ones(1), 0.5).item())
"""
IMPORTS_TORCHVISION = """
import common.machine.torchvision_ops
import torchvision
from torchvision.transforms import v2
import torch
print(tuple(v2.functional.resize(torch.zeros(3, 8, 8), [4, 4]).shape))
"""


@pytest.fixture(autouse=True)
def _determinism_stays_in_this_file() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(before)


def answer(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def draws() -> tuple[float, float, float]:
    return random.gauss(), float(np.random.rand()), float(torch.rand(1))


def test_same_seed_gives_the_same_draws_from_python_numpy_and_torch() -> None:
    seed_everything(5)
    first = draws()
    seed_everything(5)
    assert draws() == first
    seed_everything(6)
    assert all(a != b for a, b in zip(draws(), first, strict=True))


def test_derived_seeds_differ_by_name_and_are_stable() -> None:
    assert derive_seed(1, "trunk") == 733_565_982
    assert derive_seed(1, "trunk") != derive_seed(1, "head")
    assert derive_seed(1, "a", "b") != derive_seed(1, "ab")


def test_generators_have_streams_of_their_own() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()

    first, same, other = (torch.rand(4, generator=generator(seed)) for seed in (1, 1, 2))

    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_torchvision_imports_after_the_shim() -> None:
    assert answer(IMPORTS_TORCHVISION) == "(3, 4, 4)"


def test_the_shim_leaves_real_operators_alone() -> None:
    assert answer(DRAWS_WITH_REAL_OPERATOR) == "2.0"
