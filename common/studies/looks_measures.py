"""What a trained network relies on: measured on pictures from which the cause was removed.

A map's own energy shows only what a network says. The measures that count change the picture:
the lesion or the marker is taken away exactly, or cells are covered one by one.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from common.metrics.faithfulness import cell_ranks, curve
from common.model.network import Network, Output
from common.studies.looks_phantom import Phantoms, cell_coverage

_CHUNK = 200
_OCCLUDED = 96  # positives whose cells are covered one by one
_DELETION_STEPS = 16
_OF_ALL_PICTURES = ("attention", "attention_grid", "thresholds")  # not one row per picture


@dataclass(frozen=True)
class Looks:
    """One network's figures on the test pictures; energies and hits are shares in [0, 1]."""

    auc: float
    conflict_auc: float  # AUC where the marker contradicts the label
    lesion_drop: float  # logit lost when the lesion is removed from marked positives
    marker_drop: float  # logit lost when the marker is removed from marked positives
    marker_evidence: float  # part of marker_drop that comes through the evidence,
    marker_gate: float  # through the gate,
    marker_context: float  # and through the context; the three add up to it
    reliance: float  # |marker_drop| / (|marker_drop| + |lesion_drop|)
    occlusion_energy: float  # of the logit lost by covering cells, the part in ROI cells
    occlusion_hit: float  # is the cell that costs most to cover a ROI cell
    deletion_auc: float  # mean probability while cells are covered in the map's order
    map_energy: float  # of gate * softplus(evidence), the part in ROI cells
    pointing_hit: float  # is the map's highest cell a ROI cell
    chance_energy: float  # share of cells that are ROI cells


def measure_looks(
    network: Network, phantoms: Phantoms, *, task: str, coverage_threshold: float
) -> Looks:
    """Measure a network on test pictures. Sets it to evaluation mode."""
    network.eval()
    whole = _run(network, phantoms.images, task)
    positive = phantoms.label > 0
    conflict = phantoms.marked != positive
    marked = positive & phantoms.marked
    unmarked = _run(network, phantoms.without_marker[marked], task)
    healed = _run(network, phantoms.without_lesion[marked], task)
    logits = whole.logits[:, 0]
    lesion_drop = float((logits[marked] - healed.logits[:, 0]).mean())
    marker_drop = float((logits[marked] - unmarked.logits[:, 0]).mean())
    evidence, gate, context = _parts_of_difference(whole, marked, unmarked)
    grid = whole.maps.shape[-2:]
    coverage = cell_coverage(phantoms.lesion[positive], (grid[0], grid[1]))
    roi = (coverage > coverage_threshold).flatten(1)
    roi |= coverage.flatten(1) == coverage.flatten(1).amax(dim=1, keepdim=True)
    saliency = (whole.gate * functional.softplus(whole.evidence))[positive].flatten(1)
    shown = torch.arange(min(_OCCLUDED, int(positive.sum())))
    images = phantoms.images[positive][shown]
    drops = _occlusion_drops(network, images, task, (grid[0], grid[1]))
    return Looks(
        auc=float(roc_auc_score(phantoms.label, logits)),
        conflict_auc=float(roc_auc_score(phantoms.label[conflict], logits[conflict])),
        lesion_drop=lesion_drop,
        marker_drop=marker_drop,
        marker_evidence=evidence,
        marker_gate=gate,
        marker_context=context,
        reliance=abs(marker_drop) / (abs(marker_drop) + abs(lesion_drop) + 1e-9),
        occlusion_energy=_energy(drops, roi[shown]),
        occlusion_hit=_hit(drops, roi[shown]),
        deletion_auc=_deletion_auc(network, images, task, whole.maps[positive][shown]),
        map_energy=_energy(saliency, roi),
        pointing_hit=_hit(saliency, roi),
        chance_energy=float(roi.float().mean()),
    )


def colour(images: Tensor) -> Tensor:
    """Return grey pictures with the three channels that the network reads."""
    return images.expand(-1, 3, -1, -1)


def _run(network: Network, images: Tensor, task: str) -> Output:
    """Run in chunks; attention is dropped, the rest put together."""
    with torch.no_grad():
        outputs: list[Output] = [
            network(colour(chunk), task=task) for chunk in torch.split(images, _CHUNK)
        ]
    joined = {
        field.name: torch.cat([getattr(output, field.name) for output in outputs])
        for field in fields(Output)
        if field.name not in _OF_ALL_PICTURES
    }
    return replace(outputs[0], attention=(), **joined)  # type: ignore[arg-type]  # names vary


def _parts_of_difference(
    whole: Output, chosen: Tensor, changed: Output
) -> tuple[float, float, float]:
    """Split a logit difference exactly: Δ(p e) = p̄ Δe + ē Δp, with p̄ and ē the two means."""
    gate, evidence = whole.gate[chosen], whole.evidence[chosen]
    by_evidence = (gate + changed.gate) / 2 * (evidence - changed.evidence)
    by_gate = (evidence + changed.evidence) / 2 * (gate - changed.gate)
    by_context = whole.context[chosen] - changed.context
    count = len(by_context)
    return (
        float(by_evidence.sum() / count),
        float(by_gate.sum() / count),
        float(by_context.sum() / count),
    )


def _blurred(images: Tensor) -> Tensor:
    """Return what a covered cell shows: the picture without anything as small as a lesion."""
    side_px = images.shape[-1]
    size_px = side_px // 4 + 1
    return functional.avg_pool2d(
        functional.pad(images, [size_px // 2] * 4, mode="reflect"), size_px, stride=1
    )


def _occlusion_drops(network: Network, images: Tensor, task: str, grid: tuple[int, int]) -> Tensor:
    """Return the logit lost by covering each cell, negative losses as 0, (N, h * w)."""
    before = _run(network, images, task).logits[:, 0]
    hidden = _blurred(images)
    drops = []
    for cell in torch.eye(grid[0] * grid[1]).reshape(-1, 1, 1, *grid):
        cover = functional.interpolate(cell, size=images.shape[-2:], mode="nearest") > 0
        after = _run(network, torch.where(cover, hidden, images), task).logits[:, 0]
        drops.append((before - after).clamp(min=0))
    return torch.stack(drops, dim=1)


def _deletion_auc(network: Network, images: Tensor, task: str, maps: Tensor) -> float:
    """Return the mean probability while cells are covered, highest map value first."""
    grid = (maps.shape[2], maps.shape[3])
    deletion = curve(
        lambda pictures: _run(network, pictures, task).logits[:, 0].sigmoid(),
        images,
        _blurred(images),
        cell_ranks(maps[:, 0], grid=grid, seed=0),
        grid=grid,
        steps=_DELETION_STEPS,
        at_once=_CHUNK,
    )  # (N, steps + 1)
    return float(np.trapezoid(deletion.mean(axis=0), dx=1 / _DELETION_STEPS))


def _energy(values: Tensor, roi: Tensor) -> float:
    inside = (values * roi).sum(dim=1) / values.sum(dim=1).clamp(min=1e-9)
    return float(inside.mean())


def _hit(values: Tensor, roi: Tensor) -> float:
    best = values.argmax(dim=1, keepdim=True)
    return float(roi.gather(1, best).float().mean())
