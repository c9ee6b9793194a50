"""A small untrained model of all three tasks, calibrated by hand, as if a run had packaged it."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import yaml

from common.config.model import ModelConfig
from common.config.run import PreprocessConfig
from common.metrics.novelty import Familiar
from common.model.network import Network, build_network
from common.package.loading import LoadedModel, network_input
from common.package.schema import Calibration, Conformal, ModelPackage, TaskPackage
from common.tasks import Task, task_named

SIDE_PX = 64
CHEST = ("Effusion", "Mass", "Nodule")
TEMPERATURE = 1.6789123456  # more digits than an explanation writes
# Weights that training gave positive answers, where a model is weighted; elsewhere 1.
WEIGHTS = {"Effusion": 2.7, "Mass": 4.3, "grade>=3": 1.7, "grade>=4": 2.7}


def small_network() -> Network:
    """Return a network whose maps differ from place to place and from logit to logit."""
    values = yaml.safe_load(Path("configs/models/tiny.yaml").read_text())["model"]
    config = ModelConfig.model_validate(values | {"context_labels": {"chestx": ["Mass"]}})
    tasks = {name: task_named(name, None) for name in ("retina", "pathoscan")}
    network = build_network(config, {"chestx": task_named("chestx", CHEST), **tasks}, seed=5)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def small_model(
    *,
    is_calibrated: bool = True,
    novelty_limit: float | None = 1e6,
    is_weighted: bool = False,
) -> LoadedModel:
    """Return the network with a package around it; a limit of 0 makes every picture novel.

    A weighted one has the shifts of ``WEIGHTS``.
    """
    return model_around(
        small_network(),
        is_calibrated=is_calibrated,
        novelty_limit=novelty_limit,
        is_weighted=is_weighted,
    )


def model_around(
    network: Network,
    *,
    size_px: int = SIDE_PX,
    is_calibrated: bool = True,
    novelty_limit: float | None = 1e6,
    is_weighted: bool = False,
) -> LoadedModel:
    """Return any network with a package around it, for pictures of a size."""
    about = {
        name: _about(
            task,
            network,
            size_px=size_px,
            is_calibrated=is_calibrated,
            novelty_limit=novelty_limit,
            weights=WEIGHTS if is_weighted else {},
        )
        for name, task in network.tasks.items()
    }
    package = ModelPackage(
        format=1,
        run="small",
        round=3,
        seed=5,
        config_digest="c" * 64,
        weights_sha256="a" * 64,
        novelty_sha256="b" * 64,
        made_at="2026-03-02T09:30:00+00:00",
        versions={"fovea": "0.1.0"},
        model=network.config,
        tasks=about,
    )
    familiar = {name: _familiar(network, name, size_px) for name in about}
    return LoadedModel(network, package, familiar)


def _about(
    task: Task,
    network: Network,
    *,
    size_px: int,
    is_calibrated: bool,
    novelty_limit: float | None,
    weights: Mapping[str, float],
) -> TaskPackage:
    conformal = Conformal(
        coverage=0.9,
        # Half of all nonconformities: some answers are ruled out, some are not.
        thresholds={
            key: 0.5
            for key in (
                [f"{label}: {word}" for label in task.labels for word in ("absent", "present")]
                if task.kind == "multi-label"
                else task.labels
            )
        },
        pictures={label: 60 for label in task.labels},
        is_per_answer=True,
        left_out={},
        measured_coverage={},
        measured_pictures={},
    )
    calibration = Calibration(
        shift={name: float(np.log(weights.get(name, 1.0))) for name in task.class_names},
        temperature=TEMPERATURE,
        pictures=60,
        patients=60,
        error_before=0.1,
        error_after=0.05,
        gate_pictures=40,
        note="",
        conformal=conformal,
        why_not_conformal="",
    )
    signs = {name: {logit: 0.5 for logit in task.logit_names} for name in task.concepts[:2]}
    return TaskPackage(
        labels=task.labels,
        concepts=task.concepts,
        size_px=size_px,
        preprocess=PreprocessConfig(
            contrast_percentiles=None,
            clahe_clip_limit=0.0,
            clahe_tiles=8,
            crop_dark_border=task.name == "retina",
            stain_normalisation="none",
        ),
        calibration=calibration if is_calibrated else None,
        why_not_calibrated="" if is_calibrated else "no calibration part",
        novelty_limit=novelty_limit,
        why_no_novelty="" if novelty_limit is not None else "too few patients",
        novelty_share_expected=0.01,
        novelty_share_measured=None,
        concept_association=signs,
        sites=2,
        training_pictures=320,
        reference="phantoms: 60 pictures of 60 patients",
        measured={},
    )


def _familiar(network: Network, task: str, size_px: int) -> Familiar:
    noise = np.random.default_rng(3).integers(0, 256, (1, size_px, size_px, 3), dtype=np.uint8)
    with torch.no_grad():
        mean = network(network_input(noise), task=task).pooled[0].numpy()
    return Familiar(mean=mean, whitening=np.eye(len(mean), dtype=np.float32))
