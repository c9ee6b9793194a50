"""Epsilon agrees with other people's arithmetic, and grows with whatever is spent."""

import logging
import math
import subprocess
import sys

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from opacus.accountants import PRVAccountant
from scipy.stats import norm

from client.records import accountant
from client.records.accountant import covers, epsilon
from client.records.spending import Spending
from common.config.privacy import Unit

DELTA = 1e-5


def spent(
    noise_multiplier: float = 2.0,
    sample_rate: float = 0.05,
    steps: int = 20,
    *,
    unit: Unit = "patient",
) -> Spending:
    return Spending(
        mechanism="poisson-subsampled-gaussian",
        unit=unit,
        noise_multiplier=noise_multiplier,
        sample_rate=sample_rate,
        steps=steps,
    )


def of_patients(*spendings: Spending, delta: float = DELTA) -> float:
    return epsilon(spendings, unit="patient", delta=delta)


def as_event(*spendings: Spending) -> dp_accounting.DpEvent:
    return dp_accounting.ComposedDpEvent(
        [
            dp_accounting.SelfComposedDpEvent(
                dp_accounting.PoissonSampledDpEvent(
                    each.sample_rate, dp_accounting.GaussianDpEvent(each.noise_multiplier)
                ),
                each.steps,
            )
            for each in spendings
        ]
    )


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate", "steps"),
    [(1.0, 0.05, 1000), (1.1, 0.01, 10_000), (4.0, 0.2, 50), (1.0, 0.002, 5000)],
)
def test_epsilon_is_that_of_opacus_and_below_the_renyi_bound(
    noise_multiplier: float, sample_rate: float, steps: int
) -> None:
    told = of_patients(spent(noise_multiplier, sample_rate, steps))

    opacus = PRVAccountant()
    opacus.history = [(noise_multiplier, sample_rate, steps)]
    # Opacus' is an upper bound with an absolute error of 0.01.
    assert told == pytest.approx(opacus.get_epsilon(DELTA), rel=0.01, abs=0.012)
    renyi = RdpAccountant().compose(as_event(spent(noise_multiplier, sample_rate, steps)))
    assert told < renyi.get_epsilon(DELTA)


@pytest.mark.parametrize(("noise_multiplier", "steps"), [(5.0, 1), (5.0, 10), (2.0, 3)])
def test_without_sampling_it_is_the_closed_form(noise_multiplier: float, steps: int) -> None:
    """Balle and Wang 2018, arXiv:1805.06530, theorem 8."""
    told = of_patients(spent(noise_multiplier, 1.0, steps))

    mu = math.sqrt(steps) / noise_multiplier
    delta = norm.cdf(mu / 2 - told / mu) - math.exp(told) * norm.cdf(-mu / 2 - told / mu)
    assert delta == pytest.approx(DELTA, rel=0.01)
    assert delta <= DELTA  # rounded to the safe side


def test_different_rounds_compose_to_less_than_their_sum_and_more_than_the_largest() -> None:
    rounds = [spent(1.5, 0.05, 200), spent(3.0, 0.3, 20)]
    alone = [of_patients(each) for each in rounds]

    together = of_patients(*rounds)

    assert max(alone) < together < sum(alone)
    opacus = PRVAccountant()
    opacus.history = [(each.noise_multiplier, each.sample_rate, each.steps) for each in rounds]
    assert together == pytest.approx(opacus.get_epsilon(DELTA), rel=0.01)


def test_how_rounds_are_noted_changes_nothing() -> None:
    once = of_patients(spent(steps=200), spent(3.0))
    assert of_patients(spent(3.0), *[spent(steps=20)] * 10) == once


@pytest.mark.parametrize(
    "more",
    [
        (spent(), spent()),
        (spent(steps=21),),
        (spent(1.9),),
        (spent(sample_rate=0.06),),
        (spent(), spent(50.0, 0.001, 1)),
    ],
    ids=["round", "steps", "less noise", "larger sample", "a little of another"],
)
def test_whatever_is_spent_more_epsilon_does_not_fall(more: tuple[Spending, ...]) -> None:
    assert of_patients(*more) >= of_patients(spent())
    assert of_patients(spent(), delta=1e-7) > of_patients(spent(), delta=1e-3)


def test_nothing_spent_is_nothing() -> None:
    assert epsilon([], unit="patient", delta=DELTA) == 0.0
    assert epsilon([], unit="image", delta=DELTA) == 0.0


# --- units ---------------------------------------------------------------------------------


def test_noise_for_single_images_is_no_protection_of_patients() -> None:
    pictures = spent(unit="image")

    assert not covers(pictures, "patient")
    assert of_patients(pictures) == 0.0
    assert of_patients(spent(), pictures) == of_patients(spent())
    assert epsilon([pictures], unit="image", delta=DELTA) == of_patients(spent())


def test_noise_for_patients_protects_an_image_with_half_its_noise() -> None:
    assert covers(spent(), "image")
    assert epsilon([spent(4.0)], unit="image", delta=DELTA) == of_patients(spent(2.0))
    both = epsilon([spent(4.0), spent(3.0, unit="image")], unit="image", delta=DELTA)
    assert both == of_patients(spent(2.0), spent(3.0))


@pytest.mark.parametrize(
    ("noise_multiplier", "sample_rate"), [(4.0, 0.02), (4.0, 0.3), (2.0, 0.9), (4.0, 1.0)]
)
def test_half_the_noise_bounds_the_exchange_of_a_patients_gradient(
    noise_multiplier: float, sample_rate: float
) -> None:
    """Against the library's own accounting of one record that is replaced by another."""
    patients = spent(noise_multiplier, sample_rate, 20)
    relation = dp_accounting.NeighboringRelation.REPLACE_ONE
    exchanged = PLDAccountant(relation, value_discretization_interval=1e-3)
    exchanged.compose(as_event(patients))

    told = epsilon([patients], unit="image", delta=DELTA)

    assert told >= exchanged.get_epsilon(DELTA) * (1 - 1e-3)


# --- manners -------------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [spent(1e-4), spent(1.0, 1.0, 10**9)], ids=["noise", "steps"])
def test_what_promises_nothing_is_said_without_ado(wish: Spending) -> None:
    assert of_patients(wish) > 1e4


def test_the_coarse_bound_is_not_taken_where_the_fine_one_is_told() -> None:
    close = spent(1.0, 0.05, 12_000)
    renyi = RdpAccountant().compose(as_event(close)).get_epsilon(DELTA)
    assert of_patients(close) < renyi < accountant._COARSE_FROM


def test_the_library_is_silent_and_others_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    accountant._composed.cache_clear()
    with caplog.at_level(logging.INFO):
        of_patients(spent(1.0, 0.3, 1))  # an order of the Rényi bound does not converge
        assert caplog.records == []
        logging.getLogger("absl").warning("another's")
    assert [record.message for record in caplog.records] == ["another's"]
    assert logging.getLogger("absl").filters == []


def test_the_library_loads_with_the_first_composition() -> None:
    code = (
        "import sys; from client.records.accountant import epsilon; "
        "epsilon([], unit='patient', delta=1e-5); "
        "print(*[name for name in ('dp_accounting', 'numpy', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
