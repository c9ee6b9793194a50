"""Gradient inversion: the picture back from one update, by the transformer's own arithmetic.

The gradient of a linear layer is Σ_t δ_t y_tᵀ over its inputs y_t: its rows span the inputs. With
fewer tokens than channels that span is a small subspace, known exactly (Fan et al. 2020,
https://arxiv.org/abs/2010.06529, section 3; Petrov et al. 2024, https://arxiv.org/abs/2405.15586).
A first token is P φ + b + position, its P, b and position known to whoever knows the model; that
it lies in the span is a linear equation for the CNN's features φ at every place. What the linear
equations leave open, the spans of the deeper layers decide. The picture then follows from its
features by descent with total variation, as in Geiping et al. 2020,
https://arxiv.org/abs/2003.14053, which starts from the gradient itself.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from common.datasets.transforms import normalise
from common.errors import ConfigError
from common.model.network import Network
from common.model.transformer import Block, Transformer
from common.studies.audit_config import InversionConfig
from common.studies.audit_updates import Observed

_BLOCK = "trunk.transformer.blocks"
_RIDGE = 1e-12  # of a least squares problem's mean diagonal


@dataclass(frozen=True)
class TokenProblem:
    """What the first block's span leaves open of the deep features: φ_t = known_t + Z a_t."""

    known: Tensor  # (N, C)
    open: Tensor  # (C, k) = Z, orthonormal
    projection: Tensor  # (d, C) = P
    offset: Tensor  # (N, d) = b + position
    spans: tuple[
        tuple[Tensor, Tensor], ...
    ]  # per block (d, r): of attention's inputs, of the MLP's


def reconstruct(
    network: Network,
    observed: Observed,
    *,
    pictures: int,
    channels: int,
    side_px: int,
    config: InversionConfig,
    seed: int,
) -> Tensor:
    """Return a picture (C, S, S) in [0, 1] that explains an observed gradient.

    Args:
        network: The model that the step started from. Evaluated, not changed.
        observed: What was seen.
        pictures: In the step; the attacker knows or guesses it.
        channels: Of the pictures, 1 or 3.
        side_px: Of the pictures.
        config: How long and how often.
        seed: Of the starts.

    Raises:
        ConfigError: The encoder's deep cells are not the transformer's tokens one by one.
    """
    problem = token_problem(network, observed, pictures=pictures, side_px=side_px, config=config)
    draw = torch.Generator().manual_seed(seed)
    deep = solve_tokens(problem, network.trunk.transformer, config=config, draw=draw)
    rows, columns = network.grid(side_px)
    features = deep.T.reshape(1, -1, rows, columns).float()
    outside = _outside_evidence(
        network, observed, cells=_evidence_cells(network, side_px) * pictures
    )
    start = 0.5 + 0.05 * torch.randn(1, channels, side_px, side_px, generator=draw)
    return picture_of(network, features, outside, start=start, config=config)[0]


def token_problem(
    network: Network, observed: Observed, *, pictures: int, side_px: int, config: InversionConfig
) -> TokenProblem:
    """Solve the linear equations of the first block's span. Raises ConfigError; see above."""
    transformer = network.trunk.transformer
    grid = network.grid(side_px)
    if network.trunk.encoder.deep_stride_px != network.config.encoder.token_stride_px:
        raise ConfigError(
            "audit.inversion.model: the attack needs a model whose transformer_stage has the "
            "stride of its tokens, as configs/models/small.yaml has."
        )
    places = grid[0] * grid[1]
    width = network.config.width
    rank = min(places * pictures, width - 1)
    spans = tuple(
        (
            _span(observed, f"{_BLOCK}.{number}.attention.query_key_value.weight", rank, config),
            _span(observed, f"{_BLOCK}.{number}.expand.weight", rank, config),
        )
        for number in range(len(transformer.blocks))
    )
    projection = network.trunk.project_deep.weight.detach().double().flatten(1)
    bias = network.trunk.project_deep.bias
    nowhere = torch.zeros(1, places, width, dtype=torch.float64)
    positions = cast(Tensor, transformer.positions(nowhere, grid))[0]
    offset = positions + (0.0 if bias is None else bias.detach().double())
    norm = cast(Block, transformer.blocks[0]).norm_attention
    scale, shift = norm.weight.detach().double(), norm.bias.detach().double()
    # y = scale (z - mean) / deviation + shift: z is in the span of y / scale, 1 and shift / scale.
    directions = [spans[0][0] / scale[:, None], torch.ones(width, 1, dtype=torch.float64)]
    if bool(shift.any()):
        directions.append((shift / scale)[:, None])
    basis = torch.cat(directions, dim=1)
    system = torch.cat([projection, -basis], dim=1)  # (d, C + r + 1)
    solution = torch.linalg.lstsq(system, -offset.T, driver="gelsd").solution
    # Tokens of other places whose positions cancel fit as well: sums of sines have a low rank.
    freedom = rank - int(torch.linalg.matrix_rank(positions))
    freedom = max(freedom, system.shape[1] - system.shape[0], 0)
    _, _, right = torch.linalg.svd(system)
    channels = projection.shape[1]
    null = right[right.shape[0] - freedom :, :channels].T  # (C, k)
    open_ = torch.linalg.qr(null).Q if freedom else null
    return TokenProblem(solution[:channels].T, open_, projection, offset, spans)


def outside_spans(coefficients: Tensor, problem: TokenProblem, transformer: Transformer) -> Tensor:
    """Return the share of all layers' inputs that lies outside their spans, summed; a scalar.

    ``coefficients`` are a_t, (N, k). Zero at the true tokens of an exact gradient. Differentiable.
    """
    deep = problem.known + coefficients @ problem.open.T
    tokens = (deep @ problem.projection.T + problem.offset)[None]
    shares = []
    blocks = [cast(Block, block) for block in transformer.blocks]
    for block, (attended, expanded) in zip(blocks, problem.spans, strict=True):
        inputs = block.norm_attention(tokens)
        shares.append(_share_outside(inputs, attended))
        tokens = tokens + block.attention(inputs)[0]
        inputs = block.norm_mlp(tokens)
        shares.append(_share_outside(inputs, expanded))
        hidden = functional.gelu(block.expand(inputs))
        tokens = tokens + block.contract(hidden)
    return torch.stack(shares).sum()


def solve_tokens(
    problem: TokenProblem,
    transformer: Transformer,
    *,
    config: InversionConfig,
    draw: torch.Generator,
) -> Tensor:
    """Return the deep features (N, C) whose layer inputs fit all spans best, of several starts."""
    frozen = copy.deepcopy(transformer).double().requires_grad_(False)
    size = (problem.known.shape[0], problem.open.shape[1])
    best, least = problem.known, float("inf")
    for start in range(config.restarts):
        scatter = problem.known.std() if start else 0.0  # the first start is the smallest solution
        coefficients = torch.randn(size, generator=draw, dtype=torch.float64) * scatter
        coefficients.requires_grad_()
        optimiser = torch.optim.LBFGS(
            [coefficients],
            max_iter=config.token_iterations,
            history_size=50,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-14,
            tolerance_change=1e-16,
        )

        def objective(
            optimiser: torch.optim.LBFGS = optimiser, coefficients: Tensor = coefficients
        ) -> float:
            optimiser.zero_grad()
            value = outside_spans(coefficients, problem, frozen)
            value.backward()  # type: ignore[no-untyped-call]
            return float(value.detach())

        if problem.open.shape[1]:
            optimiser.step(objective)  # type: ignore[no-untyped-call]
        left = float(outside_spans(coefficients.detach(), problem, frozen))
        if left < least:
            least = left
            best = problem.known + coefficients.detach() @ problem.open.T
    return best


def picture_of(
    network: Network, features: Tensor, outside: Tensor, *, start: Tensor, config: InversionConfig
) -> Tensor:
    """Return pictures (B, C, S, S) in [0, 1] that have the given deep features.

    Minimises |f(x) - φ|² / |φ|², the share of evidence features ``outside`` their span, and the
    total variation with a weight that falls geometrically.
    """
    picture = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([picture], lr=config.picture_step)
    steps = config.picture_iterations
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, steps, eta_min=config.picture_step / 100
    )
    size = features.square().sum()
    for step in range(steps):
        evidence, deep = network.trunk.encoder(normalise(picture))
        beyond = torch.einsum("rc,bchw->brhw", outside, evidence)
        weight = config.variation * config.variation_end ** (step / steps)
        loss = (
            (deep - features).square().sum() / size
            + beyond.square().sum() / evidence.square().sum()
            + weight * total_variation(picture)
        )
        picture.grad = torch.autograd.grad(loss, picture)[0]
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            picture.clamp_(0, 1)
    return picture.detach()


def total_variation(pictures: Tensor) -> Tensor:
    """Return the mean absolute step between neighbours over both axes, rounded off at zero."""
    steps: Sequence[Tensor] = (pictures.diff(dim=2), pictures.diff(dim=3))
    return torch.stack([(step.square() + 1e-6).sqrt().mean() for step in steps]).sum()


def span_of_rows(gradient: Tensor, deviation: Tensor | None, *, rank: int, rounds: int) -> Tensor:
    """Return an orthonormal basis (d, r) of what the rows of a gradient (o, d) span.

    Where some numbers are known better than others, the nearest matrix of that rank in weighted
    least squares, by ``rounds`` of alternating ones; else by singular values.
    """
    _, _, right = torch.linalg.svd(gradient, full_matrices=False)
    basis: Tensor = right[:rank].T
    if deviation is None:
        return basis
    weights = deviation.square().clamp(min=torch.finfo(torch.float64).tiny).reciprocal()
    weights = (weights / weights.median()).clamp(max=1e6)
    for _ in range(rounds):
        left = _weighted_factor(gradient, weights, basis)
        basis = torch.linalg.qr(_weighted_factor(gradient.T, weights.T, left)).Q
    return basis


def _weighted_factor(values: Tensor, weights: Tensor, factor: Tensor) -> Tensor:
    """Return U (o, r) that makes U factorᵀ nearest to the values (o, d), row by row."""
    normal = torch.einsum("ij,ja,jb->iab", weights, factor, factor)
    ridge = _RIDGE * normal.diagonal(dim1=1, dim2=2).mean(dim=1)
    normal = normal + ridge[:, None, None] * torch.eye(factor.shape[1], dtype=normal.dtype)
    solved: Tensor = torch.linalg.solve(normal, (weights * values) @ factor)
    return solved


def _span(observed: Observed, name: str, rank: int, config: InversionConfig) -> Tensor:
    deviation = None if observed.deviation is None else observed.deviation[name]
    return span_of_rows(observed.gradient[name], deviation, rank=rank, rounds=config.factor_rounds)


def _share_outside(inputs: Tensor, span: Tensor) -> Tensor:
    rest = inputs - (inputs @ span) @ span.T
    return rest.square().sum() / inputs.square().sum()


def _evidence_cells(network: Network, side_px: int) -> int:
    return (side_px // network.trunk.encoder.evidence_stride_px) ** 2


def _outside_evidence(network: Network, observed: Observed, *, cells: int) -> Tensor:
    """Return directions (r, C) that no evidence feature has, none where cells fill all of them."""
    gradient = observed.gradient["trunk.project_evidence.weight"].flatten(1)
    _, _, right = torch.linalg.svd(gradient)
    outside: Tensor = right[min(cells, gradient.shape[1]) :].float()
    return outside
