"""One victim's picture, attacked through everything that may leave a site; and how near it came."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from common.config.run import RunConfig
from common.machine.seed import derive_seed
from common.model.network import Network, build_network
from common.studies.audit_config import AuditConfig, run_of
from common.studies.audit_inversion import reconstruct
from common.studies.audit_pictures import Patients, draw_patients
from common.studies.audit_updates import (
    Observed,
    gradient_of,
    seen_after_adam,
    seen_masked,
    seen_plainly,
    seen_summed,
    seen_with_noise,
)

VICTIM_SITE = "victim"


@dataclass(frozen=True)
class Case:
    """One thing that an attacker may see of a victim."""

    title: str
    is_reconstructed: bool | None  # what is expected; None: measured, nothing expected


CASES = {
    "plain": Case("one picture, plain gradient step", True),
    "adam": Case("one picture, Adam's first step", None),
    "batch": Case("one of a batch, plain gradient step", None),
    "masked": Case("secure sum: the masked vector", False),
    "sum": Case("secure sum: the opened sum", False),
    "noise": Case("differential privacy: the noised step", False),
}


@dataclass(frozen=True)
class Reconstruction:
    """What one attack brought."""

    case: str
    victim: int
    psnr_db: float
    ssim: float
    is_identified: bool  # nearer to its own than to every decoy
    is_success: bool  # identified, and similar enough
    original: NDArray[np.float32]  # (C, S, S) in [0, 1]: of those in the update, the nearest
    reconstruction: NDArray[np.float32]  # (C, S, S)


def attack(case: str, victim: int, config: AuditConfig) -> Reconstruction:
    """Attack one victim through one case; torch on one thread."""
    torch.set_num_threads(1)
    inversion = config.inversion
    run = run_of(config, model=inversion.model)
    # Neighbours: who shares the victim's batch or sum. Decoys: who was nowhere near.
    shared = max(inversion.batch, 1 + (inversion.sites - 1) * inversion.batch)
    drawn = draw_patients(run, site=f"{VICTIM_SITE}-{victim}", count=shared)
    decoys = draw_patients(run, site="decoys", count=inversion.decoys)
    network = build_network(run.model, run.task_table(), seed=config.seed).train()
    count = {"batch": inversion.batch, "sum": shared}.get(case, 1)
    observed = _seen(case, network, drawn, config, run)
    found = reconstruct(
        network,
        observed,
        pictures=count,
        channels=int(drawn.pictures.shape[1]),
        side_px=config.side_px,
        config=inversion,
        seed=derive_seed(config.seed, "inversion", case, victim),
    )
    return measured(
        case,
        victim,
        found,
        drawn.pictures[:count],
        decoys.pictures,
        ssim_at_least=inversion.ssim_at_least,
    )


def measured(
    case: str, victim: int, found: Tensor, own: Tensor, decoys: Tensor, *, ssim_at_least: float
) -> Reconstruction:
    """Compare a picture (C, S, S) with those of the update (B, C, S, S) and with decoys.

    Nearness is Pearson's correlation: brightness and contrast do not make a patient.
    """
    nearness = correlations(found, own)
    nearest = int(nearness.argmax())
    original = own[nearest]
    similarity = float(
        structural_similarity(  # type: ignore[no-untyped-call]
            original.numpy(), found.numpy(), data_range=1.0, channel_axis=0
        )
    )
    error = float((original - found).square().mean())
    is_identified = bool(nearness[nearest] > correlations(found, decoys).max())
    return Reconstruction(
        case=case,
        victim=victim,
        psnr_db=-10 * float(np.log10(max(error, 1e-10))),
        ssim=similarity,
        is_identified=is_identified,
        is_success=is_identified and similarity >= ssim_at_least,
        original=original.numpy(),
        reconstruction=found.numpy(),
    )


def correlations(picture: Tensor, others: Tensor) -> Tensor:
    """Return Pearson's correlation of a picture (C, S, S) with each other (B, C, S, S), (B,)."""
    one = picture.flatten().double()
    many = others.flatten(1).double()
    one, many = one - one.mean(), many - many.mean(dim=1, keepdim=True)
    sizes: Tensor = many.norm(dim=1) * one.norm()
    return torch.mv(many, one) / sizes.clamp(min=1e-12)


def _seen(
    case: str, network: Network, drawn: Patients, config: AuditConfig, run: RunConfig
) -> Observed:
    task = run.task(config.task)

    def gradient(first: int, last: int) -> dict[str, Tensor]:
        return gradient_of(network, drawn.of(slice(first, last)), task=task, run=run)

    each, sites = config.inversion.batch, config.inversion.sites
    ways: dict[str, Callable[[], Observed]] = {
        "plain": lambda: seen_plainly(gradient(0, 1)),
        "adam": lambda: seen_after_adam(network, gradient(0, 1), task=task, train=run.train),
        "batch": lambda: seen_plainly(gradient(0, each)),
        "masked": lambda: seen_masked(network, gradient(0, 1), run=run, pictures=1),
        "sum": lambda: seen_summed(
            network,
            [gradient(0, 1)]
            + [gradient(1 + each * site, 1 + each * (site + 1)) for site in range(sites - 1)],
            run=run,
            pictures=[1] + [each] * (sites - 1),
        ),
        "noise": lambda: seen_with_noise(gradient(0, 1), noise=config.noise),
    }
    return ways[case]()
