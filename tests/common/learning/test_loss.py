"""Each part of the loss, against numpy by hand; what it must never do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config.loss import LossConfig
from common.datasets.sample import Batch
from common.errors import ConfigError
from common.learning.loss import (
    attention_loss,
    classification_loss,
    roi_weight,
    saliency_loss,
    sample_losses,
    total_loss,
)
from common.model.network import Output
from common.tasks import TASKS, Task, task_named

CHEST = task_named("chestx", ("Mass", "Nodule", "Effusion"))
CONFIG = LossConfig(
    lambda_att=0.1,
    lambda_sal=1.0,
    lambda_con=0.5,
    overlap_weight=0.5,
    entropy_weight=0.1,
    coverage_threshold=0.08,
    expected_roi_fraction={"chestx": 0.25, "retina": 0.5, "pathoscan": 0.5},
    class_weights={
        name: {label: 1.0 + i for i, label in enumerate(task.class_names)}
        for name, task in {**TASKS, "chestx": CHEST}.items()
    },
)
COUNT, SIDE = 4, 5


def softplus(values: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(values))


def output_for(task: Task, *, seed: int = 0, evidence_shift: float = 0.0) -> Output:
    make = torch.Generator().manual_seed(seed)
    shape = (COUNT, task.num_logits, SIDE, SIDE)
    evidence = torch.randn(shape, generator=make) + evidence_shift
    evidence.requires_grad_()
    gate = torch.randn(shape, generator=make).flatten(2).softmax(dim=2).reshape(shape)
    context = torch.randn(COUNT, task.num_logits, generator=make)
    logits = (gate * evidence).sum(dim=(2, 3)) + context
    thresholds = torch.tensor([-1.0, 0.0, 0.5, 2.0]) if task.kind == "ordinal" else None
    scores = torch.randn(COUNT, 2, SIDE**2, SIDE**2, generator=make)
    signs = (COUNT, len(task.concepts), SIDE, SIDE)
    concept_evidence = torch.randn(signs, generator=make).requires_grad_()
    concept_gate = torch.randn(signs, generator=make).flatten(2).softmax(dim=2).reshape(signs)
    return Output(
        logits=logits,
        maps=gate * evidence,
        evidence=evidence,
        gate=gate,
        context=context,
        attention=(scores.softmax(dim=-1), (2 * scores).softmax(dim=-1)),
        attention_grid=(SIDE, SIDE),
        class_logits=logits if thresholds is None else logits - thresholds,
        thresholds=thresholds,
        pooled=torch.zeros(COUNT, 4),
        concept_logits=(concept_gate * concept_evidence).sum(dim=(2, 3)),
        concept_maps=concept_gate * concept_evidence,
        concept_evidence=concept_evidence,
        concept_gate=concept_gate,
    )


def batch_for(task: Task, *, roi: bool = True) -> Batch:
    make = torch.Generator().manual_seed(9)
    target = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, math.nan], [1.0] * 3, [0.0] * 3])
    if task.kind == "ordinal":
        target = torch.tensor([[3.0], [0.0], [math.nan], [1.0]])
    if task.kind == "binary":
        target = torch.tensor([[1.0], [0.0], [1.0], [math.nan]])
    shape = (COUNT, task.num_logits, SIDE, SIDE)
    coverage = torch.rand(shape, generator=make) * (torch.rand(shape, generator=make) > 0.7)
    has_roi = torch.ones(COUNT, task.num_logits, dtype=torch.bool)
    has_roi[2] = False
    # The first picture's signs are all known, one of the second's, none of the third's.
    concepts = torch.full((COUNT, len(task.concepts)), math.nan)
    concepts[0] = torch.arange(len(task.concepts)).remainder(2)
    concepts[1, 0], concepts[3, 1] = 1.0, 1.0
    return Batch(
        image=torch.zeros(COUNT, 3, 8, 8),
        target=target,
        roi_coverage=coverage,
        has_roi=has_roi if roi else torch.zeros_like(has_roi),
        concept_target=concepts,
        concept_coverage=torch.rand(*concepts.shape, SIDE, SIDE, generator=make),
    )


def rows(batch: Batch, output: Output, index: int) -> tuple[Batch, Output]:
    """Return one picture of a batch."""
    one = slice(index, index + 1)
    fields = ("logits", "maps", "evidence", "gate", "context", "class_logits", "concept_logits",
              "concept_maps", "concept_evidence", "concept_gate")  # fmt: skip
    return (
        Batch(
            image=batch.image[one],
            target=batch.target[one],
            roi_coverage=batch.roi_coverage[one],
            has_roi=batch.has_roi[one],
            concept_target=batch.concept_target[one],
            concept_coverage=batch.concept_coverage[one],
        ),
        replace(
            output,
            **{name: getattr(output, name)[one] for name in fields},
            attention=tuple(layer[one] for layer in output.attention),
        ),
    )


def test_multi_label_classification_equals_numpy_by_hand() -> None:
    output, batch = output_for(CHEST), batch_for(CHEST)

    given = classification_loss(
        output.class_logits, batch.target, task=CHEST, weights=(1.0, 2.0, 3.0)
    )

    probability = 1 / (1 + np.exp(-output.logits.detach().numpy()))
    target = batch.target.numpy()
    terms = -(
        np.array([1.0, 2.0, 3.0]) * target * np.log(probability)
        + (1 - target) * np.log(1 - probability)
    )
    np.testing.assert_allclose(given.detach(), np.nansum(terms, axis=1) / 3, rtol=1e-5)


def test_ordinal_classification_equals_numpy_by_hand() -> None:
    task = TASKS["retina"]
    output, batch = output_for(task), batch_for(task)
    weights = (1.0, 2.0, 3.0, 4.0)

    given = classification_loss(output.class_logits, batch.target, task=task, weights=weights)

    expected = np.zeros(COUNT)
    for row, grade in enumerate(batch.target[:, 0].tolist()):
        for step, (theta, weight) in enumerate(
            zip(output.thresholds.tolist(), weights, strict=True)
        ):
            at_least = 1 / (1 + math.exp(-(output.logits[row, 0].item() - theta)))
            term = -weight * math.log(at_least) if grade > step else -math.log(1 - at_least)
            expected[row] += 0.0 if math.isnan(grade) else term / 4
    np.testing.assert_allclose(given.detach(), expected, rtol=1e-5)


def test_attention_part_equals_numpy_by_hand() -> None:
    output = output_for(CHEST)

    given = attention_loss(output.attention, (SIDE, SIDE), entropy_weight=0.1)

    expected = np.zeros(COUNT)
    for layer in output.attention:
        for row in range(COUNT):
            received = layer[row].numpy().mean(axis=(0, 1))
            picture = received.reshape(SIDE, SIDE) * SIDE**2
            down = np.abs(picture[1:] - picture[:-1]).mean()
            right = np.abs(picture[:, 1:] - picture[:, :-1]).mean()
            entropy = -(received * np.log(received)).sum() / np.log(SIDE**2)
            expected[row] += (down + right + 0.1 * entropy) / 2
    np.testing.assert_allclose(given, expected, rtol=1e-5)


def test_even_attention_varies_nowhere_and_has_full_entropy() -> None:
    even = torch.full((1, 2, 16, 16), 1 / 16)
    given = attention_loss((even,), (4, 4), entropy_weight=0.1)
    assert given.item() == pytest.approx(0.1)


def test_saliency_part_equals_numpy_by_hand() -> None:
    output, batch = output_for(CHEST), batch_for(CHEST)

    given = sample_losses(output, batch, task=CHEST, config=CONFIG).saliency

    expected = np.zeros(COUNT)
    for row in range(COUNT):
        terms = []
        for logit in range(3):
            roi = batch.roi_coverage[row, logit].numpy()
            if not batch.has_roi[row, logit] or batch.target[row, logit] != 1:
                continue
            weight = np.minimum(roi / min(0.08, roi.max()), 1.0)
            energy = output.gate[row, logit].numpy() * softplus(
                output.evidence[row, logit].detach().numpy()
            )
            inside = (energy * weight).sum() / energy.sum()
            relative = energy / energy.max()
            dice = 2 * (relative * weight).sum() / (relative.sum() + weight.sum())
            terms.append((1 - inside) + 0.5 * (1 - dice))
        expected[row] = np.mean(terms) / 0.25 if terms else 0.0
    assert expected[0] > 0
    assert expected[2] == expected[3] == 0
    np.testing.assert_allclose(given.detach(), expected, rtol=1e-4)


@pytest.mark.parametrize("task", [CHEST, TASKS["retina"], TASKS["pathoscan"]])
def test_parts_add_up_with_their_weights_and_the_mean_is_the_batch_loss(task: Task) -> None:
    output, batch = output_for(task), batch_for(task)

    parts = total_loss(output, batch, task=task, config=CONFIG)
    each = sample_losses(output, batch, task=task, config=CONFIG)

    torch.testing.assert_close(
        parts.total,
        parts.classification + 0.1 * parts.attention + 1.0 * parts.saliency + 0.5 * parts.concept,
    )
    torch.testing.assert_close(each.total.mean(), parts.total)


@pytest.mark.parametrize("task", [CHEST, TASKS["retina"], TASKS["pathoscan"]])
def test_a_pictures_loss_does_not_depend_on_the_others(task: Task) -> None:
    output, batch = output_for(task), batch_for(task)
    together = sample_losses(output, batch, task=task, config=CONFIG).total

    for index in range(COUNT):
        one_batch, one_output = rows(batch, output, index)
        alone = sample_losses(one_output, one_batch, task=task, config=CONFIG).total
        torch.testing.assert_close(alone[0], together[index])


def test_concept_part_equals_numpy_by_hand() -> None:
    retina = TASKS["retina"]
    output, batch = output_for(retina), batch_for(retina)

    given = sample_losses(output, batch, task=retina, config=CONFIG).concept

    expected = np.zeros(COUNT)
    for row in range(COUNT):
        answers, places = [], []
        for sign in range(5):
            truth = batch.concept_target[row, sign].item()
            chance = 1 / (1 + np.exp(-output.concept_logits[row, sign].item()))
            if truth in (0.0, 1.0):
                answers.append(-np.log(chance if truth else 1 - chance))
            if truth == 1:
                weight = np.minimum(batch.concept_coverage[row, sign].numpy() / 0.08, 1.0)
                energy = output.concept_gate[row, sign].numpy() * softplus(
                    output.concept_evidence[row, sign].detach().numpy()
                )
                relative = energy / energy.max()
                dice = 2 * (relative * weight).sum() / (relative.sum() + weight.sum())
                places.append(1 - (energy * weight).sum() / energy.sum() + 0.5 * (1 - dice))
        expected[row] = sum(answers) / 5 + (np.mean(places) if places else 0.0)
    assert expected[2] == 0  # nothing is known of it
    np.testing.assert_allclose(given.detach(), expected, rtol=1e-4)


def test_a_sign_that_nobody_labelled_has_no_gradient_at_all() -> None:
    retina = TASKS["retina"]
    output, batch = output_for(retina), batch_for(retina)
    known = torch.zeros(5, dtype=torch.bool)
    known[0] = True
    batch = replace(batch, concept_target=batch.concept_target.where(known, torch.nan))

    concept = total_loss(output, batch, task=retina, config=CONFIG).concept
    (gradient,) = torch.autograd.grad(concept, output.concept_evidence)

    assert (gradient[:, 1:] == 0).all()
    assert (gradient[1, 0] != 0).any()


def test_without_any_saliency_loss_the_places_of_signs_teach_nothing_either() -> None:
    retina = TASKS["retina"]
    plain = CONFIG.model_copy(update={"lambda_sal": 0.0})
    batch = batch_for(retina)
    elsewhere = replace(batch, concept_coverage=1 - batch.concept_coverage)

    first, second = (
        sample_losses(output_for(retina), each, task=retina, config=plain).concept
        for each in (batch, elsewhere)
    )

    assert torch.equal(first, second)


def test_saliency_is_exactly_zero_with_zero_gradient_without_a_lesion_roi() -> None:
    output, batch = output_for(CHEST), batch_for(CHEST, roi=False)

    saliency = total_loss(output, batch, task=CHEST, config=CONFIG).saliency
    (gradient,) = torch.autograd.grad(saliency, output.evidence)

    assert saliency.item() == 0.0
    assert (gradient == 0).all()


def test_negatives_and_unknowns_with_a_roi_add_nothing() -> None:
    batch = batch_for(CHEST)
    batch = replace(batch, target=torch.tensor([[0.0, math.nan, 0.0]] * COUNT))
    given = sample_losses(output_for(CHEST), batch, task=CHEST, config=CONFIG)
    assert (given.saliency == 0).all()
    assert given.total.isfinite().all()


def test_a_roi_without_any_covered_cell_adds_nothing() -> None:
    batch = batch_for(CHEST)
    batch = replace(batch, roi_coverage=torch.zeros_like(batch.roi_coverage))
    output = output_for(CHEST)
    total = total_loss(output, batch, task=CHEST, config=CONFIG)
    (gradient,) = torch.autograd.grad(total.total, output.evidence)
    assert total.saliency.item() == 0.0
    assert gradient.isfinite().all()


def test_gradient_flows_when_all_evidence_is_negative() -> None:
    output, batch = output_for(CHEST, evidence_shift=-8.0), batch_for(CHEST)

    saliency = total_loss(output, batch, task=CHEST, config=CONFIG).saliency
    (gradient,) = torch.autograd.grad(saliency, output.evidence)

    assert (output.evidence < 0).all()
    assert gradient[0, 0].abs().min() > 0


def test_a_lesion_of_a_single_pixel_counts_fully() -> None:
    coverage = torch.zeros(1, 1, 4, 4)
    coverage[0, 0, 1, 2] = 1 / 256  # one pixel of a 16 x 16 cell
    weight = roi_weight(coverage, coverage_threshold=0.08)
    assert weight[0, 0, 1, 2] == 1.0
    assert weight.sum() == 1.0


def test_roi_weight_is_full_from_the_threshold_and_proportional_below() -> None:
    coverage = torch.tensor([[[[0.0, 0.02, 0.08, 0.9]]]])
    weight = roi_weight(coverage, coverage_threshold=0.08)
    torch.testing.assert_close(weight, torch.tensor([[[[0.0, 0.25, 1.0, 1.0]]]]))


def test_saliency_within_the_roi_costs_less_than_outside() -> None:
    coverage = torch.zeros(1, 1, 4, 4)
    coverage[..., :2, :2] = 1.0
    batch = Batch(
        image=torch.zeros(1, 3, 4, 4),
        target=torch.ones(1, 1),
        roi_coverage=coverage,
        has_roi=torch.ones(1, 1, dtype=torch.bool),
        concept_target=torch.zeros(1, 0),
        concept_coverage=torch.zeros(1, 0, 4, 4),
    )

    def cost(saliency: Tensor) -> float:
        return saliency_loss(saliency, batch, overlap_weight=0.5, coverage_threshold=0.08).item()

    assert cost(coverage) == pytest.approx(0.0, abs=1e-5)
    assert cost(1 - coverage) == pytest.approx(1.5, abs=1e-5)
    assert cost(coverage) < cost(torch.ones_like(coverage)) < cost(1 - coverage)


def test_weight_zero_turns_a_part_off() -> None:
    plain = CONFIG.model_copy(update={"lambda_att": 0.0, "lambda_sal": 0.0, "lambda_con": 0.0})
    parts = total_loss(output_for(CHEST), batch_for(CHEST), task=CHEST, config=plain)
    assert parts.attention.item() == parts.saliency.item() == parts.concept.item() == 0.0
    torch.testing.assert_close(parts.total, parts.classification)


def test_missing_class_weight_is_answered_with_the_nearest_name() -> None:
    config = CONFIG.model_copy(
        update={"class_weights": {"chestx": {"Mas": 1.0, "Nodule": 1.0, "Effusion": 1.0}}}
    )
    with pytest.raises(ConfigError, match=r"'Mass'\. Did you mean 'Mas'"):
        total_loss(output_for(CHEST), batch_for(CHEST), task=CHEST, config=config)
    with pytest.raises(ConfigError, match="retina"):
        total_loss(
            output_for(TASKS["retina"]),
            batch_for(TASKS["retina"]),
            task=TASKS["retina"],
            config=config,
        )
