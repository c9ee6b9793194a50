"""Decides whether the study's figures meet its bars; figures in, checks out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from common.studies.looks_config import LooksConfig
from common.studies.looks_measures import Looks


@dataclass(frozen=True)
class Check:
    """One figure beside its bar."""

    name: str
    measured: float
    relation: Literal["<=", ">="]
    bar: float

    @property
    def is_met(self) -> bool:
        """Say whether the figure keeps to the bar; NaN never does."""
        return self.measured <= self.bar if self.relation == "<=" else self.measured >= self.bar


def judge(
    judged_by: str, looks: Mapping[str, Sequence[Looks]], config: LooksConfig
) -> tuple[Check, ...]:
    """Return the checks of one scenario from each variant's figures, one per seed."""
    if judged_by == "shortcut":
        return _shortcut(looks, config)
    if judged_by == "few_rois":
        full, few = looks["full"], config.few_rois
        return (
            _check("full: AUC", [x.auc for x in full], ">=", few.auc_at_least),
            _check("full: conflict AUC", _conflict(full), ">=", few.conflict_auc_at_least),
        )
    if judged_by == "no_shortcut":
        cost = fmean(x.auc for x in looks["plain"]) - fmean(x.auc for x in looks["full"])
        bar = config.no_shortcut.auc_below_plain_at_most
        return (Check("AUC that the full loss costs", cost, "<=", bar),)
    return ()


def _shortcut(looks: Mapping[str, Sequence[Looks]], config: LooksConfig) -> tuple[Check, ...]:
    plain, full, control = looks["plain"], looks["full"], looks["control"]
    bars = config.shortcut
    reliance = [x.reliance for x in full]
    apart = fmean(x.reliance for x in control) - fmean(reliance)
    checks = [
        _check(
            "plain is fooled: conflict AUC", _conflict(plain), "<=", bars.plain_conflict_auc_at_most
        ),
        _check("full: AUC", [x.auc for x in full], ">=", bars.auc_at_least),
        _check("full: conflict AUC", _conflict(full), ">=", bars.conflict_auc_at_least),
        _check("full: marker reliance", reliance, "<=", bars.reliance_at_most),
        _check(
            "full: occlusion energy",
            [x.occlusion_energy for x in full],
            ">=",
            bars.occlusion_energy_at_least,
        ),
        _check(
            "full: pointing hit", [x.pointing_hit for x in full], ">=", bars.pointing_hit_at_least
        ),
        _check(
            "full: deletion AUC", [x.deletion_auc for x in full], "<=", bars.deletion_auc_at_most
        ),
        Check(
            "full: conflict AUC, worst seed",
            min(_conflict(full)),
            ">=",
            bars.conflict_auc_any_seed_at_least,
        ),
        Check(
            "full: marker reliance, worst seed", max(reliance), "<=", bars.reliance_any_seed_at_most
        ),
        Check(
            "control relies more on the marker than full, by",
            apart,
            ">=",
            bars.control_reliance_above_full_by_at_least,
        ),
    ]
    return tuple(checks)


def _conflict(looks: Sequence[Looks]) -> list[float]:
    return [x.conflict_auc for x in looks]


def _check(name: str, values: Sequence[float], relation: Literal["<=", ">="], bar: float) -> Check:
    return Check(name, fmean(values), relation, bar)
