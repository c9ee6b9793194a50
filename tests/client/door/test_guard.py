"""Only an answer to what was asked leaves, in the arrays that were agreed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from client.guard.what_leaves import (
    Limits,
    reason_against_size,
    reason_against_update,
    reason_to_keep,
)
from client.home.own_shard import ShardCounts
from common.datasets.card import (
    ClassCount,
    DataCard,
    DuplicateCount,
    PartCount,
    PixelRange,
    RegionCount,
    SignCount,
)
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    QueryRequest,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.precision import SMALLEST_NORMAL, rounded
from common.secure_sum.statements import (
    Bundle,
    MaskedNote,
    MemberKey,
    OpenedShares,
    RoundKey,
    Unmasking,
    as_text,
)

ARRAYS = {"trunk.w": np.zeros((2, 3), dtype=np.float32), "heads.a": np.zeros(2, dtype=np.float32)}
TRAIN = TrainRequest("run-1", 2, 0, 20, 0.0, False, "{}", ARRAYS)
UPDATE = Update("run-1", 2, "north", "chestx", 14, 3, {"total": 0.5}, {}, ARRAYS)
EVALUATE = EvaluateRequest("run-1", 2, "{}", ARRAYS)
EVALUATION = Evaluation("run-1", 2, "north", "chestx", 4, {"auroc": 0.75})
LIMITS = Limits(
    site="north",
    task="chestx",
    sites=frozenset({"north", "harbour", "valley"}),
    local_layers=("heads.b",),
    precision="float32",
    max_norm=10.0,
    scaled_to=None,
    counts=ShardCounts(14, 4, 12, 4),
    min_training_patients=10,
    min_validation_patients=4,
    metric_names=frozenset({"total", "seconds", "epsilon", "epsilon_run"}),
    evaluation_names=frozenset({"auroc"}),
    groups=frozenset({"trunk", "chestx"}),
    sum_sizes={"trunk": 9, "chestx": 5},
)
SIZE = PixelRange(64, 80, 96)
DATA_CARD = DataCard(
    task="chestx",
    image_size_px=64,
    pictures=18,
    patients=16,
    parts=(
        PartCount(
            "train", 14, 12, (ClassCount("Mass", 2, 1),), 3, signs=(SignCount("mass", 9, 8, 2, 1),)
        ),
        PartCount("val", 4, 4, (ClassCount("Mass", 0, 0),), 0),
    ),
    regions=(RegionCount("lesion_mask", 3, 3, 0.125),),
    width_px=SIZE,
    height_px=SIZE,
    exclusions={"no label": 3, "equal pictures with conflicting labels": 1},
    duplicates=DuplicateCount(0, 0, 0, 0, 0, 0),
    notes=(
        "part test is empty: too few patients to share out",
        "class Mass is absent from val, test",
        "class no finding is absent",
        "stain normalisation: too little tissue, 3 pictures left as they were",
        "2 pictures have no patient in their table: each counts as its own",
    ),
)
CARD = SiteCard("north", "chestx", 14, 4, DATA_CARD.as_json())


def reason(request: object, answer: object, limits: Limits = LIMITS) -> str | None:
    return reason_to_keep(request, answer, limits)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "answer"),
    [(TRAIN, UPDATE), (EVALUATE, EVALUATION), (QueryRequest("run-1"), CARD)],
)
def test_an_answer_to_what_was_asked_leaves(request_: object, answer: object) -> None:
    assert reason(request_, answer) is None


def with_array(name: str, values: object) -> Update:
    return replace(UPDATE, arrays={**ARRAYS, name: np.asarray(values, dtype=np.float32)})


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (EVALUATION, "cannot be answered by"),
        (replace(UPDATE, site="harbour"), "another site's name"),
        (replace(UPDATE, task="retina"), "another task"),
        (replace(UPDATE, run="run-2"), "another run or round"),
        (replace(UPDATE, server_round=1), "another run or round"),
        (replace(UPDATE, server_round=2.0), "the answer's round is no whole number"),
        (replace(UPDATE, evaluation={"auroc": 0.5}), "was not asked for"),
        (
            replace(UPDATE, arrays={"pictures": ARRAYS["trunk.w"]}),
            "an array that was not asked for",
        ),
        (replace(UPDATE, arrays={"trunk.w": ARRAYS["heads.a"]}), "another shape"),
        (replace(UPDATE, arrays={"heads.a": ARRAYS["heads.a"] + np.nan}), "not finite"),
        (replace(UPDATE, arrays={"heads.a": ARRAYS["heads.a"]}), "trunk.w is missing"),
        (with_array("heads.a", [0.0, np.inf]), "not finite"),
        (with_array("heads.a", [0.0, 1e-40]), "below 2^-126"),
        (with_array("heads.a", [8.0, 8.0]), "norm is larger than its policy allows (10)"),
        (replace(UPDATE, arrays={n: a.astype(np.float64) for n, a in ARRAYS.items()}), "float32"),
        (replace(UPDATE, precision="int8"), "not in the run's precision (float32)"),
        (replace(UPDATE, num_examples=13), "number of pictures is not that of the training part"),
        (replace(UPDATE, num_examples=14.0), "number of pictures"),
        (replace(UPDATE, num_steps=-1), "number of steps is no count"),
        (replace(UPDATE, num_steps=True), "number of steps is no count"),
        (replace(UPDATE, num_steps=2**40), "number of steps is no count"),
        (replace(UPDATE, metrics={"jane_doe": 1.0}), "a metric that is not on the list"),
        (replace(UPDATE, metrics={"total": float("nan")}), "not one finite number"),
        (replace(UPDATE, metrics={"total": "Jane Doe"}), "not one finite number"),
        (replace(UPDATE, metrics={"total": [1.0, 2.0]}), "not one finite number"),
        (replace(UPDATE, metrics={"total": 2}), "not one finite number"),
    ],
)
def test_anything_else_stays(answer: object, says: str) -> None:
    found = reason(TRAIN, answer)

    assert found is not None
    assert says in found


def test_a_layer_that_the_run_keeps_local_stays() -> None:
    arrays = {**ARRAYS, "heads.b": ARRAYS["heads.a"]}

    found = reason(replace(TRAIN, arrays=arrays), replace(UPDATE, arrays=arrays))

    assert found == "the array heads.b stays at the site"


def test_nothing_leaves_of_fewer_patients_than_the_policy_asks_for() -> None:
    few = replace(LIMITS, counts=ShardCounts(14, 4, 9, 3))
    asked = replace(TRAIN, evaluates=True)
    measured = replace(UPDATE, evaluation={"auroc": 0.5})
    enough_to_train = replace(few, min_training_patients=9)

    assert reason(asked, measured) is None
    assert "training part has fewer patients" in str(reason(TRAIN, UPDATE, few))
    assert "training part has fewer patients" in str(reason(QueryRequest("run-1"), CARD, few))
    assert "validation part has fewer" in str(reason(EVALUATE, EVALUATION, few))
    assert "on fewer patients" in str(reason(asked, measured, enough_to_train))


# --- whatever else somebody thinks of ------------------------------------------------------


@given(
    name=st.text(max_size=30),
    pixels=arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, max_side=8)),
)
def test_pixels_under_any_name_that_was_not_asked_for_stay(name: str, pixels: np.ndarray) -> None:
    if name in ARRAYS:
        return
    smuggled = {**ARRAYS, name: pixels.astype(np.float32)}

    assert reason(TRAIN, replace(UPDATE, arrays=smuggled)) is not None


@given(st.sampled_from(sorted(ARRAYS)), array_shapes(min_dims=0, max_dims=4, max_side=6))
def test_an_array_of_any_other_shape_stays(name: str, shape: tuple[int, ...]) -> None:
    found = reason(TRAIN, with_array(name, np.zeros(shape)))

    assert (found is None) == (shape == ARRAYS[name].shape)


@given(arrays(np.uint32, 2))
def test_of_any_bits_only_normal_numbers_within_the_norm_leave(bits: np.ndarray) -> None:
    numbers = bits.view(np.float32)
    exact = [float(number) for number in numbers]
    is_plain = all(
        np.isfinite(number) and (number == 0 or abs(number) >= SMALLEST_NORMAL) for number in exact
    )
    may_leave = is_plain and sum(number**2 for number in exact) ** 0.5 <= 10.0

    assert (reason(TRAIN, with_array("heads.a", numbers)) is None) == may_leave


@given(
    st.dictionaries(
        st.text(max_size=12),
        st.one_of(st.floats(), st.integers(), st.text(), st.binary(), st.lists(st.floats())),
        min_size=1,
        max_size=5,
    )
)
def test_metrics_of_other_names_or_kinds_stay(metrics: dict[str, object]) -> None:
    is_fine = all(
        name in LIMITS.metric_names and isinstance(value, float) and np.isfinite(value)
        for name, value in metrics.items()
    )

    found = reason(TRAIN, replace(UPDATE, metrics=metrics))  # type: ignore[arg-type]

    assert (found is None) == is_fine


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=5,
)


@given(word=st.text(min_size=1, max_size=30))
def test_a_reason_holds_no_word_that_only_the_answer_has(word: str) -> None:
    marked = f"\N{SNOWMAN}{word}"
    answers = [
        replace(UPDATE, arrays={**ARRAYS, marked: ARRAYS["heads.a"]}),
        replace(UPDATE, metrics={marked: 1.0}),
        replace(UPDATE, evaluation={marked: 1.0}),
        replace(UPDATE, precision=marked),  # type: ignore[arg-type]
        replace(UPDATE, site=marked),
        replace(UPDATE, run=marked),
    ]

    reasons = [str(reason(replace(TRAIN, evaluates=True), answer)) for answer in answers]

    assert not any("\N{SNOWMAN}" in found or found == "None" for found in reasons)


def test_a_reason_does_not_say_how_large_an_update_was() -> None:
    larger = [reason(TRAIN, with_array("heads.a", [size, size])) for size in (8.0, 80.0)]

    assert larger[0] == larger[1] == "the update's norm is larger than its policy allows (10)"


def signs(*counted: SignCount) -> dict[str, object]:
    """Return the change of a card to one part of 5 pictures and 4 patients with these signs."""
    return {"parts": (PartCount("val", 5, 4, (), 0, signs=counted),)}


@settings(max_examples=40, deadline=None)
@given(key=st.text(min_size=1, max_size=10), value=json_values)
def test_a_card_with_anything_more_in_it_stays(key: str, value: object) -> None:
    plain = DATA_CARD.as_dict()
    for place in (plain, plain["duplicates"], plain["parts"][0]):  # type: ignore[index]
        before = dict(place)  # type: ignore[call-overload]
        if before.get(key, place) == value:
            continue
        place[key] = value  # type: ignore[index]
        text = json.dumps(plain, indent=2, ensure_ascii=False)
        changed = replace(CARD, data_card_json=text)
        if isinstance(value, int) and not isinstance(value, bool) and key in before:
            place[key] = before[key]  # type: ignore[index]
            continue  # a count like any other
        assert reason(QueryRequest("run-1"), changed) is not None
        place.clear()  # type: ignore[attr-defined]
        place.update(before)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"task": "retina"}, "another task"),
        ({"pictures": -1}, "a count below zero"),
        ({"exclusions": {"label 'Jane Doe'": 1}}, "names a reason that Fovea does not know"),
        ({"notes": ("seen by Dr Smith",)}, "a note that Fovea does not write"),
        ({"notes": ("class Jane Doe is absent",)}, "a note that Fovea does not write"),
        ({"regions": (RegionCount("Jane", 1, 1, 0.5),)}, "names a kind of region"),
        ({"regions": (RegionCount("optic_disc", 1, 1, 7.5),)}, "a share of a picture"),
        ({"parts": (PartCount("Jane", 1, 1, (), 0),)}, "names a part"),
        ({"parts": (PartCount("val", 1, 1, (ClassCount("Jane", 1, 1),), 0),)}, "names a class"),
        ({"parts": (PartCount("val", 1, 1, (), 0),) * 2}, "names a part twice"),
        (signs(SignCount("Jane", 1, 1, 1, 1)), "names a sign that Fovea does not know"),
        # A sign of another task says what the site holds beside this one.
        (signs(SignCount("microaneurysm", 1, 1, 1, 1)), "names a sign that Fovea does not know"),
        (signs(*[SignCount("mass", 1, 1, 1, 1)] * 2), "names a sign twice"),
        (signs(SignCount("mass", 3, 3, 4, 3)), "a sign more often than it is known"),
        (signs(SignCount("mass", 3, 3, 3, 4)), "a sign more often than it is known"),
        (signs(SignCount("mass", 6, 3, 1, 1)), "a sign more often than it is known"),
        (signs(SignCount("mass", 3, 3, 1, -1)), "a count below zero"),
    ],
)
def test_a_card_with_words_that_fovea_does_not_write_stays(
    changes: dict[str, object], says: str
) -> None:
    text = replace(DATA_CARD, **changes).as_json()  # type: ignore[arg-type]

    assert says in str(reason(QueryRequest("run-1"), replace(CARD, data_card_json=text)))


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        CARD.data_card_json + " ",
        json.dumps(DATA_CARD.as_dict()),
        CARD.data_card_json.replace("18", '"18"', 1),
        CARD.data_card_json.replace('"pictures": 18', '"pictures": 7, "pictures": 18', 1),
    ],
)
def test_a_card_in_any_other_form_stays(text: str) -> None:
    assert reason(QueryRequest("run-1"), replace(CARD, data_card_json=text)) is not None


def test_the_words_of_the_card_are_those_that_preparation_writes() -> None:
    from client.guard import card as guarded_card
    from common.datasets import assemble, preprocess, reading

    assert {assemble.CONFLICT, reading.UNUSABLE} <= set(guarded_card.REASONS)
    source = preprocess.__file__
    with open(source) as file:
        text = file.read()
    steps = guarded_card.SKIPPED_STEPS
    assert text.count("skipped.append(") == len(steps)
    assert all(step in text for step in steps)


# --- coarser updates -----------------------------------------------------------------------


@given(arrays(np.float32, 2, elements=st.floats(-5, 5, width=32)))
def test_an_update_leaves_in_the_runs_precision_only(values: np.ndarray) -> None:
    limits = replace(LIMITS, precision="int8")
    exact = replace(with_array("heads.a", values), precision="int8")
    coarse = replace(exact, arrays=rounded(exact.arrays, "int8"))

    is_coarse = rounded(exact.arrays, "int8")["heads.a"].tobytes() == values.tobytes()
    assert (reason(TRAIN, exact, limits) is None) == is_coarse
    assert reason(TRAIN, coarse, limits) is None
    assert reason(TRAIN, replace(coarse, precision="float32"), limits) is not None


def test_an_answer_beyond_the_policys_size_stays() -> None:
    assert reason_against_size(bytes(2**20), max_mb=1.0) is None
    assert reason_against_size(bytes(2**20 + 2**18), max_mb=1.0) == (
        "its policy allows an answer at most 1 MB, this has 1.2"
    )


# --- the secure sum ------------------------------------------------------------------------

KEY = "A" * 43 + "="
SIGNATURE = "A" * 86 + "=="
DIGEST = "0" * 64
MASKING = replace(TRAIN, secure_json='{"members": []}')
SUMS = {"trunk": np.zeros(9, np.uint32), "chestx": np.zeros(5, np.uint32)}


def a_bundle(server_round: int = 3, **changes: object) -> Bundle:
    values: dict[str, object] = {
        "run": "run-1",
        "server_round": server_round,
        "site": "north",
        "task": "chestx",
        "mask_key": KEY,
        "members_digest": DIGEST,
        "shares_digest": DIGEST,
        "signature": SIGNATURE,
    }
    key = RoundKey(**(values | changes))  # type: ignore[arg-type]
    return Bundle(key=key, shares={"harbour": "AAAA", "valley": "AAAA"})


def a_note(following: Bundle | None = None) -> str:
    return as_text(MaskedNote(roster_digest=DIGEST, signature=SIGNATURE, next=following))


MASKED = MaskedUpdate("run-1", 2, "north", "chestx", a_note(a_bundle()), SUMS)
MEMBER = MemberKey(run="run-1", site="north", task="chestx", letter_key=KEY, signature=SIGNATURE)
UNMASKING = Unmasking(
    roster_digest=DIGEST,
    survivors=("harbour", "north"),
    dropped=("valley",),
    signatures={"harbour": SIGNATURE, "north": SIGNATURE},
)
UNMASK = UnmaskRequest("run-1", 2, "{}", as_text(UNMASKING))


def shares(seeds: dict[str, dict[str, str]], keys: dict[str, str]) -> Shares:
    text = as_text(OpenedShares(self_seeds=seeds, mask_keys=keys))
    return Shares("run-1", 2, "north", "chestx", text)


SHARES = shares({"harbour": {"trunk": "1f"}, "north": {"chestx": "2e"}}, {"valley": "3d"})


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (MASKING, MASKED),
        (MASKING, replace(MASKED, secure_json=a_note())),
        (KeysRequest("run-1", 0, "{}", "{}"), Keys("run-1", 0, "north", "chestx", as_text(MEMBER))),
        (
            KeysRequest("run-1", 3, "{}", '{"members": []}'),
            Keys("run-1", 3, "north", "chestx", as_text(a_bundle())),
        ),
        (UNMASK, SHARES),
    ],
    ids=["masked", "masked, last round", "key of the run", "keys of a round", "shares"],
)
def test_what_belongs_to_a_secure_sum_leaves(request_: object, answer: object) -> None:
    assert reason(request_, answer) is None


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (UPDATE, "cannot be answered by a Update"),
        (
            replace(MASKED, masked={**SUMS, "pictures": SUMS["trunk"]}),
            "of a group in which the site is not in this round",
        ),
        (replace(MASKED, masked={"trunk": SUMS["trunk"]}), "chestx is missing"),
        (replace(MASKED, masked={**SUMS, "trunk": np.zeros(10, np.uint32)}), "another size"),
        (replace(MASKED, masked={**SUMS, "trunk": np.zeros((3, 3), np.uint32)}), "another size"),
        (replace(MASKED, masked={**SUMS, "trunk": np.zeros(9, np.int64)}), "is not uint32"),
        (replace(MASKED, secure_json=MASKED.secure_json + " "), "no place there"),
        (
            replace(MASKED, secure_json=MASKED.secure_json.replace("{", '{"name":"Jane",', 1)),
            "no place there",
        ),
        (replace(MASKED, secure_json="{}"), "no place there"),
        (replace(MASKED, secure_json=a_note(a_bundle(4))), "another run, round or task"),
        (replace(MASKED, secure_json=a_note(a_bundle(site="valley"))), "another site's name"),
        (replace(MASKED, run="run-2"), "another run or round"),
    ],
)
def test_a_masked_update_with_anything_else_stays(answer: object, says: str) -> None:
    assert says in str(reason(MASKING, answer))


def test_a_plain_update_stays_when_it_was_to_be_masked_but_may_be_masked() -> None:
    assert reason(MASKING, UPDATE) is not None
    assert reason_against_update(MASKING, UPDATE, LIMITS) is None


def test_an_update_that_masking_scales_down_is_judged_by_what_is_left() -> None:
    large = with_array("heads.a", [80.0, 60.0])  # norm 100

    assert reason_against_update(MASKING, large, replace(LIMITS, scaled_to=10.0)) is None
    assert reason_against_update(MASKING, large, replace(LIMITS, scaled_to=20.0)) is not None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (as_text(MEMBER), "no place there"),
        (as_text(a_bundle(2)), "another run, round or task"),
        (as_text(a_bundle(run="run-2")), "another run, round or task"),
        (
            as_text(Bundle(key=a_bundle().key, shares={"jane-doe": "AAAA"})),
            "a letter to a site that is not in the run",
        ),
        (
            as_text(Bundle(key=a_bundle().key, shares={"north": "AAAA"})),
            "a letter to a site that is not in the run",
        ),
    ],
)
def test_keys_with_anything_else_stay(text: str, says: str) -> None:
    answer = Keys("run-1", 3, "north", "chestx", text)

    assert says in str(reason(KeysRequest("run-1", 3, "{}", "{}"), answer))


def test_the_key_of_a_run_stays_when_it_is_anothers() -> None:
    text = as_text(MEMBER.model_copy(update={"site": "valley"}))

    found = reason(KeysRequest("run-1", 0, "{}", "{}"), Keys("run-1", 0, "north", "chestx", text))

    assert "another site's name" in str(found)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (shares({"harbour": {"trunk": "1f"}}, {"harbour": "3d"}), "both kinds for one site"),
        (shares({"valley": {"trunk": "1f"}}, {}), "was not asked for"),
        (shares({}, {"harbour": "3d"}), "was not asked for"),
        (shares({"harbour": {"retina": "1f"}}, {}), "a group that the run does not have"),
        (replace(SHARES, shares_json="{}"), "no place there"),
        (replace(SHARES, shares_json=SHARES.shares_json.replace(":", ": ", 1)), "no place there"),
    ],
)
def test_shares_that_were_not_asked_for_stay(answer: Shares, says: str) -> None:
    assert says in str(reason(UNMASK, answer))


def test_shares_of_both_kinds_stay_although_a_coordinator_asks_for_them() -> None:
    both = UNMASKING.model_copy(update={"dropped": ("harbour", "valley")})
    asked = replace(UNMASK, unmask_json=as_text(both))

    assert "both kinds" in str(reason(asked, SHARES))


@given(st.dictionaries(st.text(max_size=8), json_values, min_size=1, max_size=3))
def test_a_note_with_any_more_keys_stays(extra: dict[str, object]) -> None:
    note = json.loads(MASKED.secure_json)
    if set(extra) & set(note):
        return
    text = json.dumps(note | extra, sort_keys=True, separators=(",", ":"))

    assert reason(MASKING, replace(MASKED, secure_json=text)) is not None
