"""An explanation holds what the network said, in numbers that can be done again from the file."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from common.errors import ModelError
from common.explain import EXPLAINERS
from common.explaining.explain_picture import explain_picture
from common.explaining.picture_file import PreparedPicture
from common.explaining.trusting import EMPTY
from common.explanation.derived import energy_in_region
from common.explanation.rationale import rationale
from common.explanation.schema import CalibratedOn, Explanation
from common.metrics.region_drop import inpainted, strongest_region
from common.package.loading import LoadedModel, network_input
from common.package.schema import Calibration
from small_model import WEIGHTS, small_model

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
TASKS = ("chestx", "retina", "pathoscan")
Drawn = Callable[..., PreparedPicture]
every_task = pytest.mark.parametrize("task", TASKS)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@every_task
def test_numbers_are_those_of_the_forward_pass(model: LoadedModel, drawn: Drawn, task: str) -> None:
    picture = drawn()

    made = explain_picture(model, picture, task=task, now=NOW)

    with torch.no_grad():
        output = model.network(network_input(picture.image[None]), task=task)
    for place, finding in enumerate(made.findings):
        logit = 0 if task == "retina" else place
        own = finding.methods[0].map
        assert own is not None
        assert finding.name == model.task(task).class_names[place]
        assert finding.logit == pytest.approx(float(output.logits[0, logit]), rel=1e-5)
        assert np.allclose(own.values, output.maps[0, logit].flatten(), rtol=1e-5)
        assert sigmoid(float(output.class_logits[0, place])) == pytest.approx(
            finding.uncalibrated, rel=1e-5
        )
        assert finding.context_logits == pytest.approx(float(output.context[0, logit]), rel=1e-5)
    assert any(f.context_share > 0 for f in made.findings) is (task == "chestx")


@every_task
def test_every_number_of_a_finding_follows_from_the_others(
    model: LoadedModel, drawn: Drawn, task: str
) -> None:
    made = explain_picture(model, drawn(region=True), task=task, now=NOW)

    assert made.temperature is not None
    assert made.roi is not None
    for finding in made.findings:
        own = finding.methods[0].map
        assert own is not None
        assert finding.map_logits == pytest.approx(math.fsum(own.values), rel=1e-5)
        assert finding.logit == pytest.approx(
            finding.map_logits + finding.context_logits, abs=1e-5 * max(1, abs(finding.logit))
        )
        answer = finding.logit - finding.threshold
        assert finding.uncalibrated == pytest.approx(sigmoid(answer), rel=1e-5)
        assert finding.shift == pytest.approx(math.log(WEIGHTS.get(finding.name, 1.0)), rel=1e-5)
        cooled = (answer - finding.shift) / made.temperature
        assert finding.probability == pytest.approx(sigmoid(cooled), rel=1e-5)
        assert finding.is_called is (finding.probability >= 0.5) is (answer >= finding.shift)
        parts = abs(finding.map_logits), abs(finding.context_logits)
        assert finding.context_share == pytest.approx(parts[1] / sum(parts), rel=1e-4)
        assert finding.methods[0].energy_in_roi == energy_in_region(own, made.roi)
    if made.kind != "multi-label":
        assert sum(made.answers.values()) == pytest.approx(1, abs=1e-5)
    assert made.rationale == rationale(made)


@every_task
def test_probabilities_and_sets_are_the_models_own(
    model: LoadedModel, drawn: Drawn, task: str
) -> None:
    picture = drawn(2)

    made = explain_picture(model, picture, task=task, now=NOW)

    prediction = model.predict(task, network_input(picture.image[None]))
    assert np.allclose([f.probability for f in made.findings], prediction.probabilities, rtol=1e-5)
    assert prediction.sets is not None
    assert made.prediction_set is not None
    sets = prediction.sets[0]
    assert len(made.prediction_set.members) == sum(len(found.members) for found in sets)
    one_each = all(found.is_sure for found in sets)
    assert made.prediction_set.is_sure is (one_each and "not sure" not in made.answer)
    assert made.prediction_set.calibration_pictures == 60
    if task == "chestx":
        assert made.prediction_set.members[0].startswith("Effusion: ")
    assert made.novelty is not None
    assert prediction.distance is not None
    assert made.novelty.score == pytest.approx(float(prediction.distance[0]), rel=1e-5)


def test_a_novel_picture_gets_no_answer(drawn: Drawn) -> None:
    made = explain_picture(small_model(novelty_limit=0.0), drawn(), task="retina", now=NOW)

    assert made.novelty is not None
    assert made.novelty.is_novel
    assert made.answer == "unlike what it knows"


def test_a_model_without_calibration_says_so_and_names_no_set(drawn: Drawn) -> None:
    made = explain_picture(
        small_model(is_calibrated=False, novelty_limit=None, is_weighted=True),
        drawn(),
        task="chestx",
        now=NOW,
    )

    assert (made.is_calibrated, made.temperature) == (False, None)
    assert made.prediction_set is None
    assert made.novelty is None
    assert all(finding.probability == finding.uncalibrated for finding in made.findings)
    assert all(finding.shift == 0 for finding in made.findings)
    assert any("not calibrated" in sentence.text for sentence in made.rationale)
    assert made.calibrated_on is None
    assert made.why_not_calibrated == made.why_no_set == "no calibration part"


def test_what_the_package_says_of_its_calibration_is_in_the_explanation(drawn: Drawn) -> None:
    whole = small_model()
    about = whole.about("chestx")
    assert about.calibration is not None
    assert about.calibration.conformal is not None
    conformal = about.calibration.conformal.model_copy(
        update={"left_out": {"Nodule": "4 patients, 9 are needed."}}
    )
    noted = about.calibration.model_copy(update={"note": "Few pictures.", "conformal": conformal})
    bare = noted.model_copy(update={"conformal": None, "why_not_conformal": "Too few."})

    def made_with(calibration: Calibration) -> Explanation:
        tasks = whole.package.tasks | {
            "chestx": about.model_copy(update={"calibration": calibration})
        }
        package = whole.package.model_copy(update={"tasks": tasks})
        model = replace(whole, package=package)
        return explain_picture(model, drawn(), task="chestx", now=NOW)

    made, without = made_with(noted), made_with(bare)

    assert made.calibrated_on == CalibratedOn(
        pictures=60, patients=60, error=0.05, error_pictures=40, note="Few pictures."
    )
    assert made.why_no_set == ""
    assert made.prediction_set is not None
    assert made.prediction_set.left_out == {"Nodule": "4 patients, 9 are needed."}
    assert without.prediction_set is None
    assert without.why_no_set == "Too few."
    assert any("Few pictures." in sentence.text for sentence in made.rationale)
    assert any("Too few." in sentence.text for sentence in without.rationale)


def test_without_methods_there_is_one_forward_pass(
    model: LoadedModel, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    handle = model.network.register_forward_hook(lambda *_: passes.append(1))
    try:
        made = explain_picture(model, drawn(), task="chestx", now=NOW)
    finally:
        handle.remove()

    assert len(passes) == 1
    assert made.expanded == ()
    assert all(len(finding.methods) == 1 for finding in made.findings)


def test_the_same_picture_is_explained_the_same_way_twice(model: LoadedModel, drawn: Drawn) -> None:
    def once() -> Explanation:
        made = explain_picture(
            model,
            drawn(),
            task="retina",
            now=NOW,
            methods=("occlusion",),
            trust="own",
            random_orders=2,
        )
        document = made.model_dump()
        for finding in document["findings"]:
            for method in finding["methods"]:
                method["seconds"] = 0.0
        return Explanation.model_validate(document)

    state = torch.random.get_rng_state()
    first, second = once(), once()

    assert first == second
    assert torch.equal(torch.random.get_rng_state(), state)


def test_methods_are_for_called_or_open_findings_unless_others_are_named(
    model: LoadedModel, drawn: Drawn
) -> None:
    usual = explain_picture(model, drawn(), task="chestx", now=NOW, methods=("occlusion",))
    named = explain_picture(
        model, drawn(), task="chestx", now=NOW, methods=("occlusion",), expand=("Mass",)
    )

    for made in (usual, named):
        with_more = [finding.name for finding in made.findings if len(finding.methods) > 1]
        assert tuple(with_more) == made.expanded
    called = [finding.name for finding in usual.findings if finding.is_called]
    assert set(called) <= set(usual.expanded)
    assert named.expanded == ("Mass",)


def test_a_map_of_a_method_is_in_shares_and_its_agreement_is_a_rank_correlation(
    model: LoadedModel, drawn: Drawn
) -> None:
    made = explain_picture(
        model, drawn(), task="pathoscan", now=NOW, methods=("evidence", "occlusion")
    )

    own, occlusion = made.findings[0].methods
    assert occlusion.map is not None
    assert own.map is not None
    assert occlusion.name == "occlusion"
    assert (occlusion.map.unit, occlusion.map.rows) == ("shares", 64)
    assert sum(occlusion.map.values) == pytest.approx(1, abs=1e-4)
    assert min(occlusion.map.values) >= 0
    assert occlusion.seconds > 0
    # Both 64 x 64: the own map spread over the pixels of its cells by straight lines.
    spread = torch.nn.functional.interpolate(
        torch.tensor(own.map.values).reshape(1, 1, 8, 8).clamp(min=0),
        size=(64, 64),
        mode="bilinear",
    )
    expected = spearmanr(spread.flatten().numpy(), occlusion.map.values).statistic
    assert occlusion.agreement == pytest.approx(float(expected), abs=0.01)


def test_trust_is_measured_of_the_own_map_or_of_all(model: LoadedModel, drawn: Drawn) -> None:
    own = explain_picture(
        model,
        drawn(),
        task="pathoscan",
        now=NOW,
        methods=("occlusion",),
        trust="own",
        random_orders=2,
    ).findings[0]

    first, second = own.methods
    assert first.faithfulness is not None
    assert first.stability is not None
    assert own.region_drop is not None
    assert second.faithfulness is None
    assert second.stability is None
    # Deletion starts from the picture as it is, insertion ends there.
    assert first.faithfulness.deletion[0] == pytest.approx(own.uncalibrated, rel=1e-4)
    assert first.faithfulness.insertion[-1] == pytest.approx(own.uncalibrated, rel=1e-4)
    assert first.faithfulness.shares[0] == 0
    assert first.faithfulness.shares[-1] == 1
    both = explain_picture(
        model,
        drawn(),
        task="pathoscan",
        now=NOW,
        methods=("occlusion",),
        trust="all",
        random_orders=2,
    ).findings[0]
    assert all(method.stability is not None for method in both.methods)
    assert all(method.faithfulness is not None for method in both.methods)


def test_a_chest_has_no_flip_to_be_stable_under(model: LoadedModel, drawn: Drawn) -> None:
    made = explain_picture(
        model, drawn(), task="chestx", now=NOW, trust="own", expand=("Mass",), random_orders=2
    )

    stability = made.findings[1].methods[0].stability
    assert stability is not None
    assert stability.flip is None


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"task": "knee"}, "task of this model"),
        ({"task": "chestx", "methods": ("grad-camp",)}, "Did you mean 'grad-cam'"),
        ({"task": "chestx", "methods": ("occlusion",), "expand": ("Masse",)}, "Mass"),
    ],
)
def test_what_the_model_does_not_have_is_refused_by_name(
    model: LoadedModel, drawn: Drawn, asked: dict[str, object], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        explain_picture(model, drawn(), now=NOW, **asked)  # type: ignore[arg-type]


def test_a_map_without_evidence_names_no_place_that_could_be_measured(drawn: Drawn) -> None:
    model = small_model()
    with torch.no_grad():
        evidence = model.network.heads["chestx"].get_submodule("parts.evidence")
        evidence.get_parameter("weight").zero_()
        evidence.get_parameter("bias").fill_(-2.0)  # every place speaks against every logit

    made = explain_picture(model, drawn(), task="chestx", now=NOW, trust="own", random_orders=2)

    finding = next(finding for finding in made.findings if finding.name in made.expanded)
    assert finding.where is None
    assert (finding.region_drop, finding.elsewhere_drop) == (None, None)
    own = finding.methods[0]
    assert (own.faithfulness, own.stability, own.unmeasured) == (None, None, EMPTY)
    said = " ".join(sentence.text for sentence in made.rationale)
    assert "the map names" not in said
    assert "follows its own picture" not in said
    assert EMPTY in said


def test_a_model_that_has_diverged_is_refused_by_name(drawn: Drawn) -> None:
    model = small_model()
    with torch.no_grad():
        next(iter(model.network.heads.parameters())).fill_(float("nan"))

    with pytest.raises(ModelError, match=r"picture 1\.png: the model's numbers .* not finite"):
        explain_picture(model, drawn(), task="chestx", now=NOW)


def test_a_grade_is_painted_over_by_its_own_probability_and_its_strongest_twentieth(
    model: LoadedModel, drawn: Drawn
) -> None:
    made = explain_picture(
        model, drawn(), task="retina", now=NOW, trust="own", expand=("grade>=3",), random_orders=2
    ).findings[2]

    assert made.threshold != 0
    curves = made.methods[0].faithfulness
    assert curves is not None
    assert curves.deletion[0] == pytest.approx(made.uncalibrated, rel=1e-4)

    image = network_input(drawn().image[None])
    saliency = EXPLAINERS.get("evidence")(model.network, image, task="retina", logit=0)
    region = torch.from_numpy(strongest_region(saliency, share=0.05))
    assert 0.03 < float(region.float().mean()) <= 0.0501  # pixels tied at the border are left out
    with torch.no_grad():
        filled = inpainted(image, region)
        drop = [float(model.network(x, task="retina").logits) for x in (image, filled)]
    assert made.region_drop == pytest.approx(drop[0] - drop[1], abs=1e-4)
