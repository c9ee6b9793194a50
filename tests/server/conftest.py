"""A small run as the coordinator's measuring and showing files see it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.config.reading import load_config
from common.config.run import RunConfig
from common.metrics.classification import Predictions, classification_metrics
from common.metrics.localisation import Localisation, LocalisedCase, localisation_metrics
from server.exchange.participation import Outcome, Status
from server.record.summary import (
    ClassificationEntry,
    LocalisationEntry,
    RoundEntry,
    SiteEntry,
    SiteRoundEntry,
    Summary,
    TaskAbout,
    TaskEntry,
    TrackingEntry,
    estimate_entries,
)

MakeSummary = Callable[..., Summary]


@pytest.fixture(scope="session")
def demo_config() -> RunConfig:
    return load_config(Path("configs/experiments/demo.yaml")).run


def task_entry(*, skill: float, pictures: int = 120) -> TaskEntry:
    """Measure made-up predictions and maps that are as good as ``skill`` in [0, 1] says."""
    rng = np.random.default_rng(5)
    truths = (rng.random((pictures, 2)) < (0.5, 0.3)).astype(float)
    noise = rng.random((pictures, 2))
    predictions = Predictions(
        task="chestx",
        class_names=("Mass", "Nodule"),
        probabilities=np.clip(skill * truths + (1 - skill) * noise, 0, 1),
        truths=truths,
        patients=np.arange(pictures),
    )
    classification = classification_metrics(
        predictions, replicates=100, min_positive_patients=20, rng=rng
    )
    rows = [
        LocalisedCase(
            class_name="Mass",
            patient=patient,
            localisation=Localisation(
                hit=float(rng.random() < 0.1 + 0.9 * skill),
                hit_chance=0.1,
                energy=0.1 + 0.8 * skill,
                energy_chance=0.1,
                iou=0.05 + 0.6 * skill,
                iou_chance=0.05,
                has_positive_evidence=True,
            ),
        )
        for patient in range(pictures // 2)
    ]
    localisation = localisation_metrics(rows, replicates=100, min_patients=20, rng=rng)
    return TaskEntry(
        pictures=pictures,
        patients=pictures,
        score=classification.average["auroc"].value,
        score_is="mean AUROC over classes",
        loss={"total": 1.0 - skill, "classification": 0.7, "attention": 0.1, "saliency": None},
        context_share={"Mass": 0.18, "Nodule": None},
        classification=ClassificationEntry(
            average=estimate_entries(classification.average),
            supported_average=estimate_entries(classification.supported_average),
            grades={},
            per_class={k: estimate_entries(e) for k, e in classification.per_class.items()},
            baseline=classification.baseline,
        ),
        localisation=LocalisationEntry(
            average=estimate_entries(localisation.average),
            class_average=estimate_entries(localisation.class_average),
            per_class={k: estimate_entries(e) for k, e in localisation.per_class.items()},
            maps_without_positive_evidence=0,
            cases_without_roi=0,
        ),
    )


@pytest.fixture(scope="session")
def make_summary() -> MakeSummary:
    """Return a function: the summary of a run of two rounds whose models are this good."""

    def make(*, skills: tuple[float, ...] = (0.0, 0.3), pictures: int = 120) -> Summary:
        site = SiteRoundEntry(
            site="north",
            outcome=Outcome.ANSWERED,
            reason="",
            num_examples=80,
            seconds=1.5,
            epsilon=None,
            epsilon_run=None,
            metrics={"total": 0.5},
            evaluation={"auroc": 0.8},
        )
        refused = site.model_copy(
            update={"site": "harbour", "outcome": Outcome.REFUSED, "reason": "not today"}
        )
        entries = [task_entry(skill=skill, pictures=pictures) for skill in skills]
        return Summary(
            schema_version=3,
            name="tiny",
            run="tiny-0123abcd",
            verdict=Status.PARTIAL,
            reasons=("site harbour refused in round 1: not today.",),
            late_replies=0,
            started_at="2024-05-01T10:00:00+00:00",
            wall_s=12.0,
            seed=7,
            config_digest="0" * 64,
            versions={"python": "3.11"},
            tasks={
                "chestx": TaskAbout(
                    title="Chest X-ray findings",
                    kind="multi-label",
                    labels=("Mass", "Nodule"),
                    classes=("Mass", "Nodule"),
                    generated=True,
                )
            },
            privacy=None,
            secure=None,
            site_floor={},
            sites=(
                SiteEntry(name="north", task="chestx", num_examples=80),
                SiteEntry(name="harbour", task="chestx", num_examples=None),
            ),
            best_round=len(entries) - 1,
            rounds=tuple(
                RoundEntry(
                    round=number,
                    wall_s=2.0,
                    central_s=1.0,
                    sent_bytes=2_000_000,
                    received_bytes=1_000_000,
                    score=entry.score,
                    central={"chestx": entry},
                    sites=(site, refused) if number else (),
                    epsilon=None,
                    epsilon_run=None,
                    floor=None,
                    summed=None,
                )
                for number, entry in enumerate(entries)
            ),
            tracking=TrackingEntry(
                uri="sqlite:///mlflow.db",
                experiment="fovea",
                run_id="abc",
                is_complete=True,
                unsent=None,
            ),
            files={"before and after": "overlays/chestx/before_after.png"},
        )

    return make
