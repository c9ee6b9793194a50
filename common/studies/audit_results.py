"""The study's figures beside what was expected of them; figures in, checks out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Literal

from pydantic import JsonValue

from common.studies.audit_canary import CanaryResult
from common.studies.audit_config import AuditConfig
from common.studies.audit_membership import AttackFigures
from common.studies.audit_reconstruction import CASES, Reconstruction

Training = Literal["plain", "private"]
Method = Literal["threshold", "calibrated"]


@dataclass(frozen=True)
class MembershipResult:
    """The attacks on the networks of one way of training."""

    training: Training
    networks: int
    auroc_unseen: float  # what the networks are good for
    figures: Mapping[Method, AttackFigures]


@dataclass(frozen=True)
class Findings:
    """All that was measured."""

    reconstructions: Sequence[Reconstruction]
    memberships: Sequence[MembershipResult]
    canaries: Sequence[CanaryResult]
    seconds: float


@dataclass(frozen=True)
class Check:
    """One figure beside its bar."""

    name: str
    measured: float
    relation: Literal["<=", ">=", ">"]
    bar: float

    @property
    def is_met(self) -> bool:
        """Say whether the figure keeps to the bar; NaN never does."""
        if self.relation == "<=":
            return self.measured <= self.bar
        return self.measured >= self.bar if self.relation == ">=" else self.measured > self.bar


def judge(findings: Findings, config: AuditConfig) -> tuple[Check, ...]:
    """Return every expectation: attacks that must succeed, protection that must hold, alarms."""
    checks = []
    for name, case in CASES.items():
        if case.is_reconstructed is not None:
            share = success_share([r for r in findings.reconstructions if r.case == name])
            bar, relation = (1.0, ">=") if case.is_reconstructed else (0.0, "<=")
            checks.append(Check(f"reconstructed, {case.title}", share, relation, bar))  # type: ignore[arg-type]
    bars = config.membership
    for result in findings.memberships:
        areas = [figures.auc for figures in result.figures.values()]
        if result.training == "plain":
            checks.append(
                Check("members told, without noise: AUC", max(areas), ">=", bars.plain_auc_at_least)
            )
        else:
            checks.append(
                Check("members told, with noise: AUC", max(areas), "<=", bars.private_auc_at_most)
            )
    for canary in findings.canaries:
        relation = "<=" if canary.mechanism == "as claimed" else ">"
        name = f"ε proved by canaries, {canary.mechanism}"
        checks.append(Check(name, canary.epsilon_at_least, relation, canary.epsilon_claimed))  # type: ignore[arg-type]
    return tuple(checks)


def success_share(reconstructions: Sequence[Reconstruction]) -> float:
    """Return the share of victims whose picture was reconstructed, NaN of none."""
    if not reconstructions:
        return float("nan")
    return fmean(float(one.is_success) for one in reconstructions)


def metrics_of(findings: Findings) -> dict[str, float]:
    """Return every figure by a name that MLflow takes."""
    values = {"seconds": findings.seconds}
    for name in CASES:
        chosen = [one for one in findings.reconstructions if one.case == name]
        if chosen:
            values[f"inversion/{name}/success"] = success_share(chosen)
            values[f"inversion/{name}/ssim"] = fmean(one.ssim for one in chosen)
            values[f"inversion/{name}/psnr_db"] = fmean(one.psnr_db for one in chosen)
    for result in findings.memberships:
        values[f"membership/{result.training}/auroc_unseen"] = result.auroc_unseen
        for method, figures in result.figures.items():
            values[f"membership/{result.training}/{method}/auc"] = figures.auc
            values[f"membership/{result.training}/{method}/true_positives"] = figures.true_positives
    for canary in findings.canaries:
        slug = canary.mechanism.replace(" ", "_")
        values[f"canaries/{slug}/epsilon_at_least"] = canary.epsilon_at_least
        values[f"canaries/{slug}/epsilon_claimed"] = canary.epsilon_claimed
    return values


def as_json(findings: Findings, checks: Sequence[Check], config: AuditConfig) -> JsonValue:
    """Return everything but the pictures."""
    return {
        "is_met": all(check.is_met for check in checks),
        "seconds": round(findings.seconds, 1),
        "checks": [{**asdict(check), "is_met": check.is_met} for check in checks],
        "reconstructions": [
            {
                key: value
                for key, value in vars(one).items()
                if key not in ("original", "reconstruction")
            }
            for one in findings.reconstructions
        ],
        "memberships": [asdict(result) for result in findings.memberships],
        "canaries": [{**asdict(one), "is_alarm": one.is_alarm} for one in findings.canaries],
        "config": config.model_dump(mode="json"),
    }
