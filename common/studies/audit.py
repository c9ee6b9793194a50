"""What does an attacker get, with and without protection? ``fovea audit-privacy``.

Three attacks on generated patients: pictures from updates, members from a released model, and
canaries that hold the private step against what the ledger claims. Each comes with the case in
which it must succeed: an attack that cannot succeed would prove nothing by failing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from statistics import fmean
from typing import Literal, TypeVar

import numpy as np
import torch

from common.machine.seed import derive_seed
from common.studies.audit_canary import CanaryResult, Mechanism, audit_canaries
from common.studies.audit_config import AuditConfig, NoiseConfig, run_of
from common.studies.audit_membership import (
    TrainedOnHalf,
    attack_figures,
    calibrated_scores,
    threshold_scores,
    train_on_half,
)
from common.studies.audit_pictures import draw_patients
from common.studies.audit_reconstruction import CASES, Reconstruction, attack
from common.studies.audit_results import Findings, MembershipResult, Training

Part = Literal["pictures from updates", "members from the model", "canaries"]
Progress = Callable[[Part, int, int], None]  # part, how much is done, of how much

T = TypeVar("T")

_MECHANISMS: tuple[Mechanism, ...] = ("as claimed", "noise too small", "noise forgotten")
_TRAININGS: tuple[Training, ...] = ("plain", "private")


def carry_out(config: AuditConfig, *, progress: Progress) -> Findings:
    """Carry out all attacks, ``config.processes`` at a time.

    Pictures, weights and draws follow from the seed; the noise of the private step does not.
    Raises ConfigError before anything is attacked when a file of the study is wrong.
    """
    started = time.monotonic()
    for model in (config.inversion.model, config.membership.model):
        run_of(config, model=model)
    with _workers(config.processes) as pool:
        cases = [
            partial(attack, case, victim, config)
            for victim in range(config.inversion.victims)
            for case in CASES
        ]
        halves = [
            partial(train_half, training, number, config)
            for training in _TRAININGS
            for number in range(config.membership.networks)
        ]
        tests = [partial(_canaries, mechanism, config) for mechanism in _MECHANISMS]
        reconstructions: list[Reconstruction] = _all(pool, cases, "pictures from updates", progress)
        networks: list[TrainedOnHalf] = _all(pool, halves, "members from the model", progress)
        canaries: list[CanaryResult] = _all(pool, tests, "canaries", progress)
    count = config.membership.networks
    memberships = [
        membership_result(training, networks[place * count : (place + 1) * count], config)
        for place, training in enumerate(_TRAININGS)
    ]
    return Findings(reconstructions, memberships, canaries, time.monotonic() - started)


def train_half(training: Training, number: int, config: AuditConfig) -> TrainedOnHalf:
    """Train one network of the membership attack, on one thread."""
    torch.set_num_threads(1)
    run = run_of(config, model=config.membership.model)
    patients = draw_patients(run, site="membership", count=config.membership.patients)
    noise: NoiseConfig | None = config.noise if training == "private" else None
    return train_on_half(run, patients, config.membership, noise=noise, number=number)


def membership_result(
    training: Training, networks: list[TrainedOnHalf], config: AuditConfig
) -> MembershipResult:
    """Attack the networks of one way of training by both methods."""
    members = np.stack([network.members for network in networks])
    seed = derive_seed(config.seed, "bootstrap", training)
    return MembershipResult(
        training=training,
        networks=len(networks),
        auroc_unseen=fmean(network.auroc_unseen for network in networks),
        figures={
            "threshold": attack_figures(
                threshold_scores(networks), members, config.membership, seed=seed
            ),
            "calibrated": attack_figures(
                calibrated_scores(networks), members, config.membership, seed=seed
            ),
        },
    )


def _canaries(mechanism: Mechanism, config: AuditConfig) -> CanaryResult:
    torch.set_num_threads(1)
    seed = derive_seed(config.seed, "canaries", mechanism)
    return audit_canaries(mechanism, config.noise, config.canaries, seed=seed)


def _all(
    pool: Executor | None, jobs: Sequence[Callable[[], T]], part: Part, progress: Progress
) -> list[T]:
    """Return what the jobs return, in their order."""
    progress(part, 0, len(jobs))
    if pool is None:
        results = []
        for done, job in enumerate(jobs, start=1):
            results.append(job())
            progress(part, done, len(jobs))
        return results
    futures = [pool.submit(job) for job in jobs]
    try:
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()  # an attack that breaks ends the study at once
            progress(part, done, len(jobs))
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    return [future.result() for future in futures]


@contextmanager
def _workers(processes: int) -> Iterator[Executor | None]:
    """Yield processes to work in, or nothing where this one is to do all of it."""
    if processes == 1:
        yield None
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool
