"""A small model of three tasks with made-up responses to a reference set."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.special import expit

from common.config.model import ModelConfig
from common.config.run import PreprocessConfig
from common.metrics.novelty import Familiar, fit_familiar
from common.metrics.temperature import grade_chances
from common.model.network import Network, build_network
from common.package.responses import Responses
from common.package.schema import Calibration, Conformal, ModelPackage, TaskPackage
from common.tasks import Task, task_named

SIDE_PX = 64
LABELS = ("Effusion", "Mass")
THRESHOLDS = np.array([-1.0, 0.0, 1.0, 2.0])

MakeResponses = Callable[..., Responses]


@pytest.fixture(scope="session")
def tasks() -> Mapping[str, Task]:
    return {
        "chestx": task_named("chestx", LABELS),
        "retina": task_named("retina"),
        "pathoscan": task_named("pathoscan"),
    }


@pytest.fixture(scope="session")
def network(tasks: Mapping[str, Task]) -> Network:
    text = Path("configs/models/tiny.yaml").read_text()
    config = ModelConfig.model_validate(yaml.safe_load(text)["model"])
    return build_network(config, tasks, seed=5).eval()


@pytest.fixture(scope="session")
def novelty(network: Network) -> dict[str, Familiar]:
    rng = np.random.default_rng(1)
    return {
        task: fit_familiar(rng.standard_normal((30, network.config.width)))
        for task in ("chestx", "retina")
    }


@pytest.fixture(scope="session")
def package(network: Network, tasks: Mapping[str, Task]) -> ModelPackage:
    """What is known of the network; grades and findings are calibrated, histology is not."""
    thresholds = {
        "chestx": {"Effusion: absent": 0.6, "Effusion: present": 0.4},
        "retina": dict.fromkeys(tasks["retina"].labels, 0.85),
    }
    left_out = {"chestx": {"Mass": "The calibration part has too few."}, "retina": {}}
    return ModelPackage(
        format=1,
        run="tiny-1",
        round=3,
        seed=5,
        config_digest="c" * 64,
        weights_sha256="",
        novelty_sha256="",
        made_at="2024-05-01T10:00:00+00:00",
        versions={"python": "3.11"},
        model=network.config,
        tasks={
            name: TaskPackage(
                labels=task.labels,
                concepts=task.concepts,
                size_px=SIDE_PX,
                preprocess=PreprocessConfig(
                    contrast_percentiles=None,
                    clahe_clip_limit=0.0,
                    clahe_tiles=8,
                    crop_dark_border=False,
                    stain_normalisation="none",
                ),
                calibration=None
                if name not in thresholds
                else Calibration(
                    shift={n: 0.7 if n in ("Mass", "grade>=4") else 0.0 for n in task.class_names},
                    temperature=2.0,
                    pictures=40,
                    patients=40,
                    error_before=0.2,
                    error_after=0.1,
                    gate_pictures=40,
                    note="",
                    conformal=Conformal(
                        coverage=0.9,
                        thresholds=thresholds[name],
                        pictures=dict.fromkeys(thresholds[name], 20),
                        is_per_answer=name == "chestx",
                        left_out=left_out[name],
                        measured_coverage={},
                        measured_pictures={},
                    ),
                    why_not_conformal="",
                ),
                why_not_calibrated="" if name in thresholds else "no calibration part.",
                novelty_limit=1.5 if name in thresholds else None,
                why_no_novelty="" if name in thresholds else "no calibration part.",
                novelty_share_expected=0.03 if name in thresholds else None,
                novelty_share_measured=None,
                concept_association={},
                sites=2,
                training_pictures=100,
                reference="40 pictures of 40 patients",
                measured={"auroc": 0.8},
            )
            for name, task in tasks.items()
        },
    )


@pytest.fixture(scope="session")
def make_responses() -> MakeResponses:
    """Return a function: a model's responses whose answers come out with known chances."""

    def make(
        task: Task,
        *,
        pictures: int,
        seed: int,
        too_sure_by: float = 1.0,
        pictures_per_patient: int = 1,
        shift: float = 0.0,
    ) -> Responses:
        rng = np.random.default_rng(seed)
        logits = 2.5 * rng.standard_normal((pictures, task.num_logits)) + shift
        class_logits = logits - THRESHOLDS if task.kind == "ordinal" else logits
        chances = expit(class_logits / too_sure_by)
        if task.kind == "ordinal":
            below = grade_chances(chances).cumsum(axis=1)
            targets = (below < rng.random((pictures, 1))).sum(axis=1, keepdims=True)
        else:
            targets = rng.random(chances.shape) < chances
        return Responses(
            class_logits=class_logits.astype(np.float32),
            logits=logits.astype(np.float32),
            concept_logits=np.zeros((pictures, 0), np.float32),
            features=rng.standard_normal((pictures, 8)).astype(np.float32),
            targets=targets.astype(np.float32),
            patients=(np.arange(pictures) // pictures_per_patient).astype(np.int32),
        )

    return make
