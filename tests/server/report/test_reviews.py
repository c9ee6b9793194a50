"""What clinicians' reviews say together, held against scikit-learn and scipy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from common.pages.page import write_page
from common.pages.review import Answer, Review
from sample import picture, sample
from server.commands.reviewing import reviews as command
from server.journal.tracking import open_run
from server.record.summary import FILE_NAME, Summary, write_summary
from server.report.review_agreement import (
    FEWEST_PICTURES,
    estimated,
    rank_correlation,
    weighted_kappa,
    weighted_mean,
)
from server.report.reviews import Item, Measured, read_measured, summarise

MakeSummary = Callable[..., Summary]
NAN = float("nan")


def review(
    number: int = 0,
    reader: str = "a",
    region: Answer = "yes",
    *,
    rationale: Answer = "yes",
    before: int = 50,
    after: int = 50,
    **changes: object,
) -> Review:
    return Review.model_validate(
        {
            "format": 1,
            "made_at": "2026-03-02T09:30:00Z",
            "reader": reader,
            "picture_sha256": f"{number:064x}",
            "weights_sha256": "b" * 64,
            "explained_at": "2026-03-02T09:00:00+00:00",
            "run": "demo",
            "task": "chestx",
            "finding": "Mass",
            "method": "evidence",
            "region": region,
            "rationale": rationale,
            "confidence_before": before,
            "confidence_after": after,
            "remark": "",
        }
        | changes,
        strict=False,
    )


def ones(count: int) -> np.ndarray:
    return np.ones((1, count))


def test_kappa_of_two_readers_is_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    first = rng.integers(0, 3, 60)
    second = np.clip(first + rng.integers(-1, 2, 60), 0, 2)
    wanted = cohen_kappa_score(first, second, weights="quadratic", labels=[0, 1, 2])
    judged = np.stack([first, second]).astype(float)
    assert weighted_kappa(judged, ones(60)) == pytest.approx([wanted])


def test_kappa_counts_weights_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(2)
    judged = rng.integers(0, 3, (2, 40))
    weights = rng.integers(0, 4, (5, 40)).astype(float)
    wanted = [
        cohen_kappa_score(*judged, weights="quadratic", labels=[0, 1, 2], sample_weight=row)
        for row in weights
    ]
    assert weighted_kappa(judged.astype(float), weights) == pytest.approx(wanted)


def test_kappa_of_three_readers_is_the_mean_over_pairs_on_what_both_have_read() -> None:
    rng = np.random.default_rng(3)
    judged = rng.integers(0, 3, (3, 50)).astype(float)
    judged[0, :10] = judged[2, 30:] = NAN
    pairs = [(0, 1, slice(10, 50)), (0, 2, slice(10, 30)), (1, 2, slice(0, 30))]
    wanted = np.mean(
        [cohen_kappa_score(judged[a, s], judged[b, s], weights="quadratic") for a, b, s in pairs]
    )
    assert weighted_kappa(judged, ones(50)) == pytest.approx([wanted])


@pytest.mark.parametrize(
    "judged",
    [
        np.array([[2.0, 1.0, 0.0]]),  # one reader
        np.array([[2.0, NAN], [NAN, 1.0]]),  # nothing read by both
        np.array([[2.0, 2.0], [2.0, 2.0]]),  # no answer differs: agreement by chance alone
    ],
)
def test_kappa_is_undefined_where_nothing_can_disagree(judged: np.ndarray) -> None:
    assert np.isnan(weighted_kappa(judged, ones(judged.shape[1]))).all()


def test_rank_correlation_is_scipys_on_the_drawn_sample() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 5, 30).astype(float), rng.random(30)
    weights = rng.integers(0, 3, (4, 30)).astype(float)
    wanted = [
        spearmanr(np.repeat(x, row.astype(int)), np.repeat(y, row.astype(int))).statistic
        for row in weights
    ]
    assert rank_correlation(x, y, weights) == pytest.approx(wanted)
    assert np.isnan(rank_correlation(np.ones(30), y, ones(30))).all()


def test_an_interval_comes_from_drawing_pictures_and_not_their_items() -> None:
    # Twenty pictures of five equal items each: as certain as twenty values, not as a hundred.
    values = np.repeat(np.random.default_rng(5).random(20), 5)
    names = [str(number) for number in np.repeat(np.arange(20), 5)]

    def mean(weights: np.ndarray) -> np.ndarray:
        return weighted_mean(values, weights)

    by_picture = estimated(mean, names, chance=None, replicates=1000, seed=0)
    alone = [str(number) for number in range(100)]
    by_item = estimated(mean, alone, chance=None, replicates=1000, seed=0)
    assert by_picture.low is not None
    assert by_picture.high is not None
    assert by_item.low is not None
    assert by_item.high is not None
    ratio = (by_picture.high - by_picture.low) / (by_item.high - by_item.low)
    assert ratio == pytest.approx(np.sqrt(5), rel=0.2)
    half = 1.96 * values[::5].std() / np.sqrt(20)
    assert by_picture.high - by_picture.low == pytest.approx(2 * half, rel=0.15)


def test_few_pictures_have_a_value_and_say_why_there_is_no_interval() -> None:
    found = summarise([review(n, region="no") for n in range(FEWEST_PICTURES - 1)], {})
    share = found["chestx"].estimates["region/no"]
    assert (share.value, share.low, share.high) == (1.0, None, None)
    assert share.note == "no interval: 9 pictures, 10 needed"


def test_answers_that_are_all_alike_promise_nothing() -> None:
    found = summarise([review(n, region="yes") for n in range(20)], {})["chestx"].estimates
    one = found["region/yes"]
    assert (one.value, one.low, one.high, one.note) == (1.0, None, None, "no interval: all alike")


def test_shares_confidence_and_counts_are_those_by_hand() -> None:
    found = summarise(
        [
            review(0, "a", "yes", before=20, after=80),
            review(0, "b", "partly", before=50, after=40, rationale="cannot tell"),
            review(1, "a", "cannot tell", before=0, after=0),
            review(2, "a", "no", task="retina"),
        ],
        {},
    )
    assert set(found) == {"chestx", "retina"}
    chest = found["chestx"]
    assert chest.counts == {
        "reviews": 3,
        "readers": 2,
        "pictures": 2,
        "items": 2,
        "items_of_several_readers": 1,
        "items_with_explanation": 0,
    }
    values = {name: one.value for name, one in chest.estimates.items()}
    assert values["region/yes"] == pytest.approx(1 / 3)
    assert values["region/cannot_tell"] == pytest.approx(1 / 3)
    assert values["rationale/cannot_tell"] == pytest.approx(1 / 3)
    assert values["confidence/change"] == pytest.approx((60 - 10 + 0) / 3)
    assert values["confidence/moved"] == pytest.approx((60 + 10 + 0) / 3)
    assert values["alignment/energy_in_roi"] is None


def test_agreement_is_over_items_that_several_have_judged() -> None:
    answers: list[tuple[Answer, Answer]] = [
        ("yes", "yes"), ("no", "partly"), ("partly", "partly"), ("no", "no"), ("yes", "partly"),
    ]  # fmt: skip
    made = [
        review(n, reader, one[r])
        for n, one in enumerate(answers)
        for r, reader in [(0, "a"), (1, "b")]
    ]
    made += [review(9, "a", "no"), review(8, "a", "cannot tell"), review(8, "b", "yes")]
    order = {"no": 0, "partly": 1, "yes": 2}
    columns = [[order[one] for one in column] for column in zip(*answers, strict=True)]
    wanted = cohen_kappa_score(*columns, weights="quadratic")
    found = summarise(made, {})["chestx"].estimates["region/kappa"]
    assert found.value == pytest.approx(wanted)
    assert found.chance == 0


def test_a_different_map_of_the_same_finding_is_another_item() -> None:
    made = [review(0, "a", "yes"), review(0, "b", "no", method="grad-cam")]
    assert summarise(made, {})["chestx"].counts["items_of_several_readers"] == 0


def test_alignment_is_spearman_with_the_readers_mean_answer() -> None:
    rng = np.random.default_rng(6)
    answers: list[Answer] = ["no", "partly", "yes"]
    levels = rng.integers(0, 3, (2, 24))
    made = [
        review(n, reader, answers[levels[r, n]]) for r, reader in enumerate("ab") for n in range(24)
    ]
    energy = np.clip(levels.mean(axis=0) / 2 + rng.normal(0, 0.2, 24), 0, 1)
    measured: dict[Item, Measured] = {
        made[n].item: Measured(energy_in_roi=float(energy[n]), agreement=None) for n in range(24)
    }
    found = summarise(made, measured)["chestx"].estimates
    wanted = spearmanr(levels.mean(axis=0), energy).statistic
    one = found["alignment/energy_in_roi"]
    assert one.value == pytest.approx(wanted)
    assert one.low is not None
    assert one.high is not None
    assert one.low < wanted < one.high
    assert found["alignment/agreement"].value is None


def test_what_explanations_measured_is_read_by_what_was_reviewed(tmp_path: Path) -> None:
    explanation = sample("chestx")
    write_page(explanation, picture("chestx"), tmp_path / "one.html")
    (tmp_path / "bad.html").write_text("", encoding="utf-8")
    (tmp_path / "bad.json").write_text("{}", encoding="utf-8")
    (tmp_path / "review.json").write_text("{}", encoding="utf-8")  # no page beside it
    measured, failures = read_measured([tmp_path])
    about = (explanation.picture.sha256, explanation.model.weights_sha256, "chestx", "Effusion")
    assert measured[*about, "grad-cam"] == Measured(energy_in_roi=0.44, agreement=0.71)
    own = measured[*about, "evidence"]
    effusion = next(finding for finding in explanation.findings if finding.name == "Effusion")
    others = [one.agreement for one in effusion.methods[1:] if one.agreement is not None]
    assert len(others) > 1
    assert own.agreement == pytest.approx(sum(others) / len(others))
    assert [path.name for path, _ in failures] == ["bad.json"]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables without a run; making them takes seconds."""
    folder = tmp_path_factory.mktemp("mlflow")
    open_run(None, experiment="any", name="any", out=folder, tags={}).close()
    return folder / "mlflow.db"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Reviews of twelve pictures by two readers, and one file that is none."""
    for number in range(12):
        for reader in ("a", "b"):
            one = review(number, reader, "yes" if number % 2 else "no", remark="SECRET remark")
            path = tmp_path / "reviews" / f"{number}-{reader}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(one.model_dump_json(), encoding="utf-8")
    (tmp_path / "reviews" / "bad.json").write_text('{"remark": "SECRET remark"}', encoding="utf-8")
    return tmp_path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_the_command_names_bad_files_and_tells_the_rest(folder: Path) -> None:
    done = run(folder / "reviews", "--out", folder / "out")
    assert done.exit_code == 3
    assert "bad.json" in done.stderr
    assert "24 reviews by 2 readers of 12 maps in 12 pictures" in done.stdout
    assert "SECRET" not in done.output
    written = json.loads((folder / "out" / "reviews.json").read_text(encoding="utf-8"))
    kappa = written["tasks"]["chestx"]["estimates"]["region/kappa"]
    assert kappa["value"] == 1.0
    assert written["unreadable"] == 1
    assert "SECRET" not in json.dumps(written)


def test_the_command_prints_json_alone(folder: Path) -> None:
    (folder / "reviews" / "bad.json").unlink()
    done = run(folder / "reviews", "--out", folder / "out", "--json")
    assert done.exit_code == 0
    written = json.loads((folder / "out" / "reviews.json").read_text(encoding="utf-8"))
    assert json.loads(done.stdout) == written


def test_the_command_refuses_folders_without_a_review(tmp_path: Path) -> None:
    done = run(tmp_path, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "no review in" in done.stderr


def test_figures_go_into_the_mlflow_run_of_a_runs_folder_and_leave_its_status(
    folder: Path, empty_database: Path, make_summary: MakeSummary
) -> None:
    shutil.copy(empty_database, folder / "mlflow.db")
    tracker = open_run(None, experiment="fovea", name="demo", out=folder, tags={})
    entry = tracker.close("FAILED")
    write_summary(make_summary().model_copy(update={"tracking": entry}), folder)
    assert (folder / FILE_NAME).exists()
    done = run(folder / "reviews", "--out", folder / "out", "--mlflow", folder)
    assert done.exit_code == 3, done.output
    tracked = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_run(entry.run_id)
    assert tracked.info.status == "FAILED"
    assert tracked.data.metrics["reviews/chestx/region/kappa"] == 1.0
    assert tracked.data.metrics["reviews/chestx/region/yes"] == 0.5
    assert 0.1 < tracked.data.metrics["reviews/chestx/region/yes.low"] < 0.5
    assert "SECRET" not in str(tracked.to_dictionary())


def test_figures_go_to_an_address_as_a_run_of_their_own(folder: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, folder / "elsewhere.db")
    address = f"sqlite:///{folder / 'elsewhere.db'}"
    done = run(folder / "reviews", "--out", folder / "out", "--mlflow", address)
    assert done.exit_code == 3, done.output
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name("fovea-reviews")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["fovea.run"] == "demo"
    assert tracked.data.metrics["reviews/chestx/reviews"] == 24


def test_a_run_that_mlflow_has_lost_is_named_with_the_remedy(
    folder: Path, empty_database: Path, make_summary: MakeSummary
) -> None:
    shutil.copy(empty_database, folder / "mlflow.db")
    write_summary(make_summary(), folder)
    done = run(folder / "reviews", "--out", folder / "out", "--mlflow", folder)
    assert done.exit_code == 1
    assert "no longer has the run" in done.stderr
