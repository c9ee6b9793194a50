"""Does the answer depend on the places that a map names? Asked of the picture, not of the map.

Deletion: the places are painted over, highest value first; a faithful map makes the answer fall
early. Insertion: they are brought back into the painted picture; the answer should rise early.
Petsiuk et al. 2018, arXiv:1806.07421, section 4.1. The paint is a blurred copy of the picture, as
black squares would be objects of their own. The same in random order is what chance gives.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import DataError
from common.machine.seed import derive_seed
from common.metrics.bootstrap import Float64Array
from common.metrics.geometry import TIE

# Pictures (B, 3, H, W) -> (B,): a logit or a probability. Areas under a probability lie in [0, 1].
Answer = Callable[[Tensor], Tensor]

GRID = (16, 16)  # cells that are painted over whole
STEPS = 16
AT_ONCE = 32  # pictures of one forward pass


@dataclass(frozen=True, eq=False)
class Curves:
    """The answer for B pictures at K + 1 shares of the picture, from none to all of it."""

    shares: Float64Array  # (K + 1,) rising from 0 to 1
    deletion: Float64Array  # (B, K + 1) with this share painted over
    insertion: Float64Array  # (B, K + 1) with this share brought back

    @property
    def deletion_area(self) -> Float64Array:
        """Area under deletion by trapezoids, (B,); lower is better."""
        return _area(self.deletion, self.shares)

    @property
    def insertion_area(self) -> Float64Array:
        """Area under insertion by trapezoids, (B,); higher is better."""
        return _area(self.insertion, self.shares)


def curves_in_order(
    answer: Answer,
    images: Tensor,
    ranks: Tensor,
    *,
    paint: Tensor,
    grid: tuple[int, int] = GRID,
    steps: int = STEPS,
    at_once: int = AT_ONCE,
) -> Curves:
    """Paint over and bring back each picture's cells in one order: that of a map, or a random one.

    Costs 2·(steps + 1) forward passes per picture.

    Args:
        answer: Asked without gradients; a network behind it should be in evaluation mode.
        images: (B, 3, H, W).
        ranks: (B, rows·columns), each cell's place in the order: :func:`cell_ranks`.
        paint: (B, 3, H, W), what a painted place shows: the blurred pictures.
        grid: Rows and columns of the cells.
        steps: Points of the curves after the first, at most as many as there are cells.
        at_once: Pictures of one forward pass.

    Raises:
        DataError: Shapes that do not belong together, or numbers out of range.
    """
    deletion, insertion = (
        curve(answer, shown, below, ranks, grid=grid, steps=steps, at_once=at_once)
        for shown, below in ((images, paint), (paint, images))
    )
    return Curves(
        shares=_counts(grid, steps) / (grid[0] * grid[1]), deletion=deletion, insertion=insertion
    )


def curves_by_chance(
    answer: Answer,
    images: Tensor,
    *,
    paint: Tensor,
    seed: int,
    random_orders: int,
    grid: tuple[int, int] = GRID,
    steps: int = STEPS,
    at_once: int = AT_ONCE,
) -> tuple[Curves, ...]:
    """Return the curves of several random orders: what every map of these pictures is held against.

    Deletion follows an order and insertion its reverse, which is as random: what the one has
    painted over is then what the other has not brought back yet, so that one pass tells both, and
    both areas are equal. Costs (steps + 1)·random_orders forward passes per picture.

    Args:
        answer: As of :func:`curves_in_order`, like all that is not named here.
        images: (B, 3, H, W).
        paint: (B, 3, H, W).
        seed: Decides the orders, the first of which also decides between tied cells of a map
            (:func:`cell_ranks`). A flat map is therefore never better than each of them.
        random_orders: How many, at least 1.
        grid: Rows and columns of the cells.
        steps: A divisor of the number of cells.
        at_once: Pictures of one forward pass.
    """
    count = grid[0] * grid[1]
    if random_orders < 1:
        raise DataError(f"random_orders must be at least 1, got {random_orders}: chance needs one.")
    if steps < 1 or count % steps:
        raise DataError(
            f"steps must be from 1 to the {count} cells of the grid and divide them, got {steps}: "
            "a curve is read backwards, so that its points must lie evenly."
        )
    drawn = []
    for number in range(random_orders):
        deletion = curve(
            answer,
            images,
            paint,
            random_ranks(len(images), grid=grid, seed=seed, number=number),
            grid=grid,
            steps=steps,
            at_once=at_once,
        )
        drawn.append(
            Curves(
                shares=_counts(grid, steps) / count, deletion=deletion, insertion=deletion[:, ::-1]
            )
        )
    return tuple(drawn)


def curve(
    answer: Answer,
    shown: Tensor,
    below: Tensor,
    ranks: Tensor,
    *,
    grid: tuple[int, int] = GRID,
    steps: int = STEPS,
    at_once: int = AT_ONCE,
) -> Float64Array:
    """Return the answers while cells are replaced by what lies below, (B, steps + 1).

    Costs steps + 1 forward passes per picture.

    Args:
        answer: Asked without gradients.
        shown: (B, C, H, W), the pictures at the start.
        below: (B, C, H, W), the pictures at the end.
        ranks: (B, rows·columns), each cell's place in the order: :func:`cell_ranks`.
        grid: Rows and columns of the cells.
        steps: Points of the curve after the first, at most as many as there are cells.
        at_once: Pictures of one forward pass.

    Raises:
        DataError: Shapes that do not belong together, or steps out of range.
    """
    count = grid[0] * grid[1]
    if shown.ndim != 4 or shown.shape != below.shape or ranks.shape != (len(shown), count):
        raise DataError(
            f"pictures and paint (B, C, H, W) of one shape and an order of {count} cells for each "
            f"are needed, got {tuple(shown.shape)}, {tuple(below.shape)} and {tuple(ranks.shape)}."
        )
    if not 1 <= steps <= count:
        raise DataError(f"steps must be from 1 to the {count} cells of the grid, got {steps}.")
    cells = _cell_of_pixel(shown.shape, grid)
    picture = torch.arange(len(shown)).repeat_interleave(steps + 1)
    replaced = torch.from_numpy(_counts(grid, steps)).repeat(len(shown))
    ranks = ranks.cpu()
    found = [torch.empty(0, dtype=torch.float64)]
    for chosen in torch.split(torch.arange(len(picture)), at_once):
        rows = picture[chosen]
        is_first = ranks[rows] < replaced[chosen, None]  # (n, cells)
        mask = is_first[:, cells].reshape(-1, 1, *shown.shape[-2:]).to(shown.device)
        with torch.no_grad():
            found.append(answer(torch.where(mask, below[rows], shown[rows])).double().cpu())
    answers: Float64Array = torch.cat(found).reshape(len(shown), steps + 1).numpy()
    return answers


def cell_ranks(saliency: Tensor, *, grid: tuple[int, int] = GRID, seed: int) -> Tensor:
    """Return each cell's place in the order of falling mean value, (B, H, W) -> (B, C), 0 first.

    Cells that differ by less than rounding are tied; which of them comes first is drawn from the
    seed, alike for each picture.

    Raises:
        DataError: The map is no (B, H, W) or has fewer pixels than cells along a side.
    """
    cells = _cell_of_pixel(saliency.shape, grid).to(saliency.device)
    values = saliency.detach().flatten(1).double()  # (B, H·W)
    count = grid[0] * grid[1]
    sums = values.new_zeros(len(values), count).index_add_(1, cells, values)
    means = sums / torch.bincount(cells, minlength=count)
    unit = means.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny) * TIE
    drawn = _drawn_order(count, seed=seed, number=0).to(saliency.device)
    rounded = (means / unit).round()[:, drawn]
    order = drawn[rounded.argsort(dim=1, descending=True, stable=True)]  # (B, C): cells by rank
    return order.argsort(dim=1)


def random_ranks(
    pictures: int, *, grid: tuple[int, int] = GRID, seed: int, number: int = 0
) -> Tensor:
    """Return the ranks (pictures, C) of a random order, the same for each picture."""
    order = _drawn_order(grid[0] * grid[1], seed=seed, number=number)
    return order.argsort()[None].expand(pictures, -1)


def _drawn_order(count: int, *, seed: int, number: int) -> Tensor:
    rng = np.random.default_rng(derive_seed(seed, "random order", number))
    return torch.from_numpy(rng.permutation(count))


def _cell_of_pixel(shape: torch.Size, grid: tuple[int, int]) -> Tensor:
    """Return which cell each pixel belongs to, (H·W,); cells differ by at most a pixel a side."""
    if len(shape) < 3 or shape[-2] < grid[0] or shape[-1] < grid[1] or min(grid) < 1:
        raise DataError(
            f"pictures or maps of shape {tuple(shape)} cannot be cut into {grid[0]} x {grid[1]} "
            "cells: a cell needs a pixel. Give a coarser grid."
        )
    row = torch.arange(shape[-2]) * grid[0] // shape[-2]
    column = torch.arange(shape[-1]) * grid[1] // shape[-1]
    return (row[:, None] * grid[1] + column[None, :]).flatten()


def _counts(grid: tuple[int, int], steps: int) -> NDArray[np.int64]:
    """Return how many cells are replaced at each point of a curve, (steps + 1,)."""
    count = grid[0] * grid[1]
    return np.array([round(step / steps * count) for step in range(steps + 1)], dtype=np.int64)


def _area(values: Float64Array, shares: Float64Array) -> Float64Array:
    areas: Float64Array = np.asarray(np.trapezoid(values, shares, axis=1))
    return areas
