"""Gradient inversion: its algebra is exact, its objective differentiable, its verdict strict."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common.config.run import RunConfig
from common.datasets.transforms import normalise
from common.model.network import Network, build_network
from common.studies.audit_config import AuditConfig, load_audit_config, run_of
from common.studies.audit_inversion import (
    outside_spans,
    solve_tokens,
    span_of_rows,
    token_problem,
    total_variation,
)
from common.studies.audit_pictures import Patients, draw_patients
from common.studies.audit_reconstruction import measured
from common.studies.audit_updates import (
    gradient_of,
    seen_after_adam,
    seen_masked,
    seen_plainly,
    seen_summed,
    seen_with_noise,
)

SIDE_PX = 64


@pytest.fixture(scope="module")
def config() -> AuditConfig:
    return load_audit_config(Path("configs/studies/audit.yaml"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow form of the attacked model: 16 tokens, 64 channels."""
    values = yaml.safe_load(Path("configs/models/small.yaml").read_text())
    values["model"]["encoder"]["options"] = {"depths": [1, 2, 1, 1], "dims": [8, 16, 32, 32]}
    values["model"]["width"] = 64
    values["model"]["transformer"]["layers"] = 2
    path = tmp_path_factory.mktemp("model") / "narrow.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def run(config: AuditConfig, model: Path) -> RunConfig:
    return run_of(config, model=str(model))


@pytest.fixture(scope="module")
def network(run: RunConfig) -> Network:
    return build_network(run.model, run.task_table(), seed=1).train()


@pytest.fixture(scope="module")
def patients(run: RunConfig) -> Patients:
    return draw_patients(run, site="victim", count=5)


@pytest.fixture(scope="module")
def gradient(network: Network, patients: Patients, run: RunConfig) -> dict[str, torch.Tensor]:
    return gradient_of(network, patients.of(slice(0, 1)), task=run.task("chestx"), run=run)


def _found_features(network: Network, observed: object, config: AuditConfig) -> torch.Tensor:
    # As many as the plain gradient needs to give its tokens away, with noise as without.
    inversion = config.inversion.model_copy(update={"token_iterations": 120})
    problem = token_problem(
        network,
        observed,  # type: ignore[arg-type]
        pictures=1,
        side_px=SIDE_PX,
        config=inversion,
    )
    draw = torch.Generator().manual_seed(0)
    return solve_tokens(problem, network.trunk.transformer, config=inversion, draw=draw)


def _true_features(network: Network, patients: Patients) -> torch.Tensor:
    with torch.no_grad():
        deep = network.trunk.encoder(normalise(patients.pictures[:1]))[1]
    return deep[0].flatten(1).T.double()


def _relative_error(found: torch.Tensor, true: torch.Tensor) -> float:
    return float((found - true).norm() / true.norm())


def test_every_token_of_one_picture_is_read_from_its_gradient(
    network: Network,
    patients: Patients,
    gradient: dict[str, torch.Tensor],
    config: AuditConfig,
) -> None:
    found = _found_features(network, seen_plainly(gradient), config)

    assert _relative_error(found, _true_features(network, patients)) < 0.01


def test_noise_hides_the_tokens(
    network: Network,
    patients: Patients,
    gradient: dict[str, torch.Tensor],
    config: AuditConfig,
) -> None:
    found = _found_features(network, seen_with_noise(gradient, noise=config.noise), config)

    assert _relative_error(found, _true_features(network, patients)) > 0.5


def test_masks_hide_the_gradient_and_the_opened_sum_is_the_weighted_sum(
    network: Network, patients: Patients, gradient: dict[str, torch.Tensor], run: RunConfig
) -> None:
    name = "trunk.transformer.blocks.0.expand.weight"
    other = gradient_of(network, patients.of(slice(1, 5)), task=run.task("chestx"), run=run)

    masked = seen_masked(network, gradient, run=run, pictures=1).gradient[name].flatten()
    opened = seen_summed(
        network, [gradient, *[other] * 4], run=run, pictures=[1, 4, 4, 4, 4]
    ).gradient[name]

    expected = gradient[name].double() + 16 * other[name].double()
    # A weight of 17 of at most 5 · 4096 pictures leaves the last bits to rounding.
    assert _relative_error(opened, expected) < 0.05
    with_own = torch.corrcoef(torch.stack([masked, gradient[name].flatten().double()]))[0, 1]
    assert abs(float(with_own)) < 6 / len(masked) ** 0.5


def test_adams_first_step_tells_small_gradients_and_leaves_the_network_alone(
    network: Network, gradient: dict[str, torch.Tensor], run: RunConfig
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}

    seen = seen_after_adam(network, gradient, task=run.task("chestx"), train=run.train)

    name = "trunk.transformer.blocks.0.attention.query_key_value.weight"
    true = gradient[name].double()
    assert seen.deviation is not None
    well_known = (seen.deviation[name] < 0.01 * true.abs()) & (true.abs() > 1e-6)
    error = (seen.gradient[name] - true).abs()[well_known] / true.abs()[well_known]
    assert well_known.double().mean() > 0.2
    assert error.max() < 0.05
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_objective_of_the_tokens_has_the_gradient_that_differences_show(
    network: Network, gradient: dict[str, torch.Tensor], config: AuditConfig
) -> None:
    problem = token_problem(
        network, seen_plainly(gradient), pictures=1, side_px=SIDE_PX, config=config.inversion
    )
    frozen = copy.deepcopy(network.trunk.transformer).double()
    frozen.requires_grad_(requires_grad=False)
    draw = torch.Generator().manual_seed(0)
    size = (problem.known.shape[0], problem.open.shape[1])
    start = torch.randn(size, generator=draw, dtype=torch.float64, requires_grad=True)
    along = torch.randn(size, generator=draw, dtype=torch.float64)

    slope = torch.autograd.grad(outside_spans(start, problem, frozen), start)[0]

    step = 1e-5
    with torch.no_grad():
        ahead = outside_spans(start + step * along, problem, frozen)
        behind = outside_spans(start - step * along, problem, frozen)
    assert float((slope * along).sum()) == pytest.approx(
        float(ahead - behind) / (2 * step), rel=1e-5
    )


def test_weighted_factorisation_ignores_what_is_not_known() -> None:
    draw = torch.Generator().manual_seed(0)
    left = torch.randn(60, 3, generator=draw, dtype=torch.float64)
    right = torch.randn(20, 3, generator=draw, dtype=torch.float64)
    values, deviation = left @ right.T, torch.full((60, 20), 1e-3, dtype=torch.float64)
    unknown = torch.rand(60, 20, generator=draw) < 0.1
    values[unknown] += 5.0
    deviation[unknown] = 5.0

    span = span_of_rows(values, deviation, rank=3, rounds=30)

    basis = torch.linalg.qr(right).Q
    assert torch.linalg.svdvals(basis.T @ span).min() > 0.999
    plain = span_of_rows(values, None, rank=3, rounds=30)
    assert torch.linalg.svdvals(basis.T @ plain).min() < 0.99


def test_variation_is_the_mean_step_over_both_axes() -> None:
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)

    assert float(total_variation(ramp)) == pytest.approx(1.0 + 1e-3, abs=1e-5)


def test_verdict_wants_both_likeness_and_the_right_patient(patients: Patients) -> None:
    own, decoys = patients.pictures[:1], patients.pictures[1:]

    def verdict(found: torch.Tensor, ssim_at_least: float = 0.6) -> tuple[bool, bool]:
        one = measured("plain", 0, found, own, decoys, ssim_at_least=ssim_at_least)
        return one.is_identified, one.is_success

    assert verdict(own[0]) == (True, True)
    assert verdict(own[0] * 0.5 + 0.2, ssim_at_least=0.999) == (True, False)
    assert verdict(decoys[0], ssim_at_least=0.0) == (False, False)


def test_verdict_measures_the_nearest_picture_of_a_batch(patients: Patients) -> None:
    own, decoys = patients.pictures[:3], patients.pictures[3:]

    one = measured("batch", 0, own[2], own, decoys, ssim_at_least=0.6)

    assert one.ssim == pytest.approx(1.0)
    assert np.array_equal(one.original, own[2].numpy())
