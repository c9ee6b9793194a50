"""Everything that is measured of one explanation method on one set."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.errors import ExplanationError
from common.explain import Explainer
from common.explain.asking import answer_of, bound, in_batches
from common.explain.baseline import blurred
from common.machine.seed import derive_seed
from common.metrics.agreement import agreement
from common.metrics.bootstrap import Float64Array
from common.metrics.estimate import Estimate, finite_or_none
from common.metrics.faithfulness import cell_ranks, curves_in_order
from common.metrics.localisation import (
    LocalisationReport,
    LocalisedCase,
    localisation_metrics,
    localise,
)
from common.metrics.sanity import Sanity, all_random, bar_verdict, cascade, layers_from_head
from common.metrics.stability import between_pictures, reproducibility, stability
from common.studies.explanations_results import Row, SanityFigures, StageFigures
from common.studies.explanations_sets import by_logit
from common.studies.explanations_subject import Subject

OWN = "evidence"  # the map that is built into the model
# Areas per case, each with what a random order gives.
_CURVES = (("deletion", "random_deletion"), ("insertion", "random_insertion"))


def measure_method(subject: Subject, name: str, explain: Explainer) -> Row:
    """Return a method's row.

    A picture that the method refuses with an ExplanationError has no map and is left out; so is a
    part of the row (stability, sanity) in which it refuses one. The notes say so.

    Raises:
        ExplanationError: The method refuses every picture.
        Exception: Whatever else the method raises is for the caller to name.
    """
    maps, seconds, refused = _maps_one_by_one(subject, explain)
    notes = (
        [f"{len(refused)} of {len(maps)} pictures without a map: {refused[0]}"] if refused else []
    )
    localised = _localised(subject, maps)
    report = _report(subject, localised)
    deletion, insertion = _curve_areas(subject, maps)
    cases = {
        "energy_in_roi": np.array([_of(case, "energy") for case in localised]),
        "pointing_hit": np.array([_of(case, "hit") for case in localised]),
        "iou_matched_area": np.array([_of(case, "iou") for case in localised]),
        "random_deletion": subject.random_deletion,
        "random_insertion": subject.random_insertion,
        "deletion": deletion,
        "insertion": insertion,
    }
    estimates = dict(report.average)
    for curve, random in _CURVES:
        chance = finite_or_none(float(np.mean(cases[random])))
        estimates[curve] = subject.estimate(cases[curve], use="curve", chance=chance)
    gains = {
        "deletion_below_chance": cases["random_deletion"] - cases["deletion"],
        "insertion_above_chance": cases["insertion"] - cases["random_insertion"],
    }
    estimates |= {key: subject.estimate(x, use="curve", chance=0.0) for key, x in gains.items()}
    if name != OWN:
        agreed = agreement(subject.own_maps, maps)
        cases |= {"agreement_spearman": agreed.spearman, "agreement_top_iou": agreed.top_iou}
        chances = {"agreement_spearman": 0.0, "agreement_top_iou": agreed.top_iou_chance}
        for key, chance_of in chances.items():
            estimates[key] = subject.estimate(cases[key], use="agreement", chance=chance_of)
    try:
        estimates |= _few_estimates(subject, explain)
    except ExplanationError as error:
        notes.append(f"stability: {error}")
    sanity = None
    try:
        sanity = _sanity(subject, explain, report)
    except ExplanationError as error:
        notes.append(f"sanity: {error}")
    return Row(
        set_name=subject.prepared.name,
        method=name,
        failure="",
        seconds=seconds,
        estimates=estimates,
        cases={
            key: tuple(finite_or_none(value) for value in values.tolist())
            for key, values in cases.items()
        },
        sanity=sanity,
        notes=tuple(notes),
    )


def _maps_one_by_one(subject: Subject, explain: Explainer) -> tuple[Tensor, float, list[str]]:
    """Return the maps (N, S, S), median seconds of one picture, and the words of each refusal.

    A picture that was refused has a map of NaN.
    """
    maps = torch.full((len(subject.cases), *subject.images.shape[-2:]), torch.nan)
    seconds: list[float] = []
    refused: list[str] = []
    for place, case in enumerate(subject.cases):
        asked = bound(explain, subject.network, subject.prepared.task, case.logit)
        started = time.perf_counter()
        try:
            maps[place] = asked(subject.images[place : place + 1])[0]
        except ExplanationError as error:
            if len(subject.cases) == len(refused) + 1:
                raise
            refused.append(str(error))
            continue
        seconds.append(time.perf_counter() - started)
    return maps, float(np.median(seconds)), refused


def _localised(subject: Subject, maps: Tensor) -> list[LocalisedCase]:
    """Hold each map (S, S) against its region; a map of NaN is not counted."""
    names = subject.prepared.task.logit_names
    return [
        LocalisedCase(
            names[case.logit],
            case.patient,
            localise(drawn, case.region) if np.isfinite(drawn).all() else None,
        )
        for case, drawn in zip(subject.cases, maps.numpy(), strict=True)
    ]


def _of(case: LocalisedCase, value: str) -> float:
    return float("nan") if case.localisation is None else getattr(case.localisation, value)


def _report(subject: Subject, localised: Sequence[LocalisedCase]) -> LocalisationReport:
    config = subject.config
    return localisation_metrics(
        localised,
        replicates=config.replicates,
        min_patients=config.min_patients,
        rng=np.random.default_rng(derive_seed(config.seeds[0], "bootstrap", "localisation")),
    )


def _curve_areas(subject: Subject, maps: Tensor) -> tuple[Float64Array, Float64Array]:
    """Return the areas under deletion and insertion, (N,) each; NaN where there is no map."""
    areas = np.full((2, len(subject.cases)), np.nan)
    has_map = maps.isfinite().all(dim=2).all(dim=1)
    for logit, all_places in by_logit(subject.cases).items():
        places = [place for place in all_places if has_map[place]]
        if not places:
            continue
        images = subject.images[places]
        found = curves_in_order(
            answer_of(subject.network, subject.prepared.task, logit),
            images,
            cell_ranks(maps[places], seed=subject.config.seeds[0]),
            paint=blurred(images),
        )
        areas[:, places] = found.deletion_area, found.insertion_area
    return areas[0], areas[1]


def _few_estimates(subject: Subject, explain: Explainer) -> dict[str, Estimate]:
    """Return stability and reproducibility on the few cases, all of one logit."""
    places = subject.few
    images, logit = subject.images[places], subject.cases[places[0]].logit
    task, seed = subject.prepared.task, subject.config.seeds[0]
    asked = in_batches(bound(explain, subject.network, task, logit))
    before = asked(images)
    measured = stability(asked, images, may_flip=task.horizontal_flip, seed=seed, saliency=before)
    chance = between_pictures(before)
    values = {"noise": measured.noise, "brightness": measured.brightness, "shift": measured.shift}
    if measured.flip is not None:
        values["flip"] = measured.flip
    mean_chance = finite_or_none(float(np.mean(chance)))
    few = len(places)
    found = {
        f"stability_{key}": subject.estimate(value, use="few", chance=mean_chance, few=few)
        for key, value in values.items()
    }
    if subject.others:
        others = [in_batches(bound(explain, n, task, logit))(images) for n in subject.others]
        alike = reproducibility([before, *others])
        found["reproducible_ssim"] = subject.estimate(
            alike.ssim, use="few", chance=mean_chance, few=few
        )
        found["reproducible_spearman"] = subject.estimate(
            alike.spearman, use="few", chance=None, few=few
        )
    return found


def _sanity(subject: Subject, explain: Explainer, trained: LocalisationReport) -> SanityFigures:
    config, task = subject.config, subject.prepared.task
    places = subject.few
    logit = subject.cases[places[0]].logit
    measured: Sanity = cascade(
        subject.network,
        in_batches(bound(explain, subject.network, task, logit)),
        subject.images[places],
        layers_from_head(subject.network, task=task.name),
        threshold=config.sanity_threshold,
        seed=config.seeds[0],
    )
    randomised = []
    for number in range(config.random_networks):
        seed = derive_seed(config.seeds[0], "random network", number)
        with all_random(subject.network, task=task.name, seed=seed):
            maps = torch.zeros(len(subject.cases), *subject.images.shape[-2:])
            for asked, its_places in by_logit(subject.cases).items():
                method = in_batches(bound(explain, subject.network, task, asked))
                maps[its_places] = method(subject.images[its_places])
            randomised.append(_report(subject, _localised(subject, maps)))
    margin = subject.prepared.config.bar_margin
    verdict = bar_verdict(trained, randomised, metric=config.bar_metric, margin=margin)
    return SanityFigures(
        verdict=measured.verdict,
        changes_at=measured.changes_at,
        threshold=measured.threshold,
        stages=tuple(
            StageFigures(stage.layer, float(stage.spearman.mean()), float(stage.ssim.mean()))
            for stage in measured.stages
        ),
        bar_metric=config.bar_metric,
        bar_margin=margin,
        trained_meets_bar=verdict.trained_meets,
        random_meet_bar=verdict.random_meet,
        random_networks=verdict.random_networks,
        random_values=tuple(one.average[config.bar_metric].value for one in randomised),
    )
