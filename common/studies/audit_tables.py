"""The study's figures as rows of words, for a terminal and for a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.table import Table

from common.studies.audit_config import AuditConfig
from common.studies.audit_reconstruction import CASES
from common.studies.audit_results import Check, Findings

_TRAININGS = {"plain": "without noise", "private": "with noise"}
_METHODS = {"threshold": "loss threshold", "calibrated": "likelihood ratio, shadow networks"}


_UNIT = "unit patient (one picture each)"  # of every epsilon of the study


@dataclass(frozen=True)
class Figures:
    """A table: the first column is words, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables_of(findings: Findings, checks: Sequence[Check], config: AuditConfig) -> list[Figures]:
    """Return the attacks' figures, and last what was expected of them."""
    return [
        _inversion(findings, config),
        _membership(findings, config),
        _canaries(findings, config),
        Figures(
            title=f"Expected; ε: {_UNIT}",
            columns=("what", "measured", "bar", "verdict"),
            rows=tuple(
                (
                    check.name,
                    f"{check.measured:.2f}",
                    f"{check.relation} {check.bar:.2f}",
                    "met" if check.is_met else "MISSED",
                )
                for check in checks
            ),
        ),
    ]


def terminal_table(figures: Figures) -> Table:
    """Return a table for a terminal."""
    table = Table(title=figures.title, title_justify="left")
    for number, column in enumerate(figures.columns):
        table.add_column(column, justify="right" if number else "left")
    for row in figures.rows:
        style = "red" if row[-1] == "MISSED" else None
        table.add_row(*row, style=style)
    return table


def verdict_of(checks: Sequence[Check]) -> str:
    """Return one sentence: as expected, or what was not."""
    missed = [check.name for check in checks if not check.is_met]
    if not missed:
        return "AS EXPECTED: attacks succeed where nothing protects, and fail where something does"
    return f"NOT AS EXPECTED: {'; '.join(missed)}"


def _inversion(findings: Findings, config: AuditConfig) -> Figures:
    rows = []
    for name, case in CASES.items():
        chosen = [one for one in findings.reconstructions if one.case == name]
        if not chosen:
            continue
        won = sum(one.is_success for one in chosen)
        named = sum(one.is_identified for one in chosen)
        rows.append(
            (
                case.title,
                f"{fmean(one.ssim for one in chosen):.2f}",
                f"{fmean(one.psnr_db for one in chosen):.1f}",
                f"{named} of {len(chosen)}",
                f"{won} of {len(chosen)}",
            )
        )
    inversion = config.inversion
    return Figures(
        title=(
            f"Pictures from one update: {config.side_px} px, reconstructed from SSIM "
            f"{inversion.ssim_at_least} and nearer than {inversion.decoys} others; batch of "
            f"{inversion.batch}; sum of {inversion.sites} sites; "
            f"noise {config.noise.noise_multiplier:g}, clip norm {config.noise.clip_norm:g}"
        ),
        columns=("what the attacker sees", "SSIM", "PSNR, dB", "identified", "reconstructed"),
        rows=tuple(rows),
    )


def _membership(findings: Findings, config: AuditConfig) -> Figures:
    rows = []
    for result in findings.memberships:
        for method, found in result.figures.items():
            rows.append(
                (
                    f"{_TRAININGS[result.training]}: {_METHODS[method]}",
                    f"{found.auc:.2f} ({found.auc_interval[0]:.2f}–{found.auc_interval[1]:.2f})",
                    f"{found.true_positives:.3f} ({found.true_positives_interval[0]:.3f}–"
                    f"{found.true_positives_interval[1]:.3f})",
                    f"{result.auroc_unseen:.2f}",
                )
            )
    settings = config.membership
    return Figures(
        title=(
            f"Members from the released model: {settings.networks} networks each, "
            f"{settings.patients // 2} of {settings.patients} patients; 95 % intervals"
        ),
        columns=(
            "training and attack",
            "attack's AUC",
            f"true positives at {settings.false_positive_rate:.0%} false",
            "model's AUROC, unseen",
        ),
        rows=tuple(rows),
    )


def _canaries(findings: Findings, config: AuditConfig) -> Figures:
    noise = config.noise
    return Figures(
        title=(
            f"Canaries in the private step: {config.canaries.count}, noise "
            f"{noise.noise_multiplier:g}, rate {noise.sample_rate:g}, {noise.steps} steps, "
            f"δ = {noise.delta:g}, {_UNIT}; bound at "
            f"{1 - config.canaries.significance:.0%} confidence"
        ),
        columns=("mechanism", "guesses right", "ε at least", "ε claimed", "alarm"),
        rows=tuple(
            (
                one.mechanism,
                f"{one.right} of {one.guesses}",
                f"{one.epsilon_at_least:.2f}",
                f"{one.epsilon_claimed:.2f}",
                "ALARM" if one.is_alarm else "none",
            )
            for one in findings.canaries
        ),
    )
