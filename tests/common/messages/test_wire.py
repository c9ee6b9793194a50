"""What coordinator and sites say to each other survives the way, and nothing else does."""

import json
import string
from collections.abc import Callable

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictMessage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from safetensors.numpy import save

from common.errors import WireError
from common.messages.kinds import (
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    QueryRequest,
    Refusal,
    RefusalCode,
    Request,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.precision import PRECISIONS, Precision, rounded
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.wire import decode_answer, decode_any_request, decode_request, encode

TAKEN = "__order__"  # a name of the contract's own, which arrays cannot have
names = st.text(string.ascii_lowercase + "._", min_size=1, max_size=20).filter(TAKEN.__ne__)
texts = st.text(min_size=1, max_size=20)
counts = st.integers(0, 2**31)
metric_names = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)
metrics = st.dictionaries(
    metric_names, st.floats(allow_nan=False, allow_infinity=False), max_size=4
)
named_arrays = st.dictionaries(
    names,
    arrays(
        np.float32,
        array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    max_size=4,
)
precisions = st.sampled_from(PRECISIONS)
updates = st.builds(
    lambda precision, arrays, **rest: Update(
        arrays=rounded(arrays, precision), precision=precision, **rest
    ),
    precision=precisions,
    run=texts,
    server_round=counts,
    site=texts,
    task=texts,
    num_examples=counts,
    num_steps=counts,
    metrics=metrics,
    evaluation=metrics,
    arrays=named_arrays,
)


def an_update(**changes: object) -> Update:
    values: dict[str, object] = {
        "run": "run",
        "server_round": 1,
        "site": "north",
        "task": "chestx",
        "num_examples": 8,
        "num_steps": 2,
        "metrics": {"total": 0.5},
        "evaluation": {"auroc": 0.75},
        "arrays": {"trunk.weight": np.ones((2, 3), dtype=np.float32)},
    }
    return Update(**(values | changes))  # type: ignore[arg-type]


def same_arrays(left: object, right: object) -> bool:
    return list(left) == list(right) and all(  # type: ignore[call-overload]
        np.array_equal(left[name], right[name], equal_nan=True)  # type: ignore[index]
        and left[name].dtype == right[name].dtype  # type: ignore[index]
        for name in left  # type: ignore[attr-defined]
    )


@given(updates)
def test_an_update_survives_the_way(update: Update) -> None:
    arrived = decode_answer(encode(update), Update)

    assert isinstance(arrived, Update)
    assert same_arrays(arrived.arrays, update.arrays)
    assert {**vars(arrived), "arrays": None} == {**vars(update), "arrays": None}


@given(
    run=texts,
    steps=st.tuples(counts, counts),
    mu=st.floats(0, 10),
    evaluates=st.booleans(),
    sent=named_arrays,
)
def test_a_train_request_survives_the_way(
    run: str, steps: tuple[int, int], mu: float, evaluates: bool, sent: dict[str, np.ndarray]
) -> None:
    config = json.dumps({"seed": 1})
    request = TrainRequest(run, 3, steps[0], steps[1], mu, evaluates, config, sent)

    arrived = decode_request(encode(request), TrainRequest)

    assert same_arrays(arrived.arrays, request.arrays)
    assert {**vars(arrived), "arrays": None} == {**vars(request), "arrays": None}


@pytest.mark.parametrize(
    "request_",
    [
        QueryRequest(run="run"),
        EvaluateRequest("run", 1, "{}", {}),
        KeysRequest("run", 0, "{}", "{}"),
        UnmaskRequest("run", 1, "{}", '{"survivors": []}'),
    ],
    ids=["query", "evaluate", "keys", "unmask"],
)
def test_the_other_requests_survive_the_way(
    request_: QueryRequest | EvaluateRequest | KeysRequest | UnmaskRequest,
) -> None:
    assert vars(decode_request(encode(request_), type(request_))) == vars(request_)


@pytest.mark.parametrize(
    "answer",
    [
        SiteCard("north", "chestx", 80, 10, '{"pictures": 100}'),
        Evaluation("run", 2, "north", "chestx", 10, {"auroc": 0.75}),
        Keys("run", 0, "north", "chestx", '{"letter_key": "k"}'),
        Shares("run", 2, "north", "chestx", '{"mask_keys": {}}'),
    ],
    ids=["card", "evaluation", "keys", "shares"],
)
def test_the_other_answers_survive_the_way(answer: SiteCard | Evaluation | Keys | Shares) -> None:
    assert vars(decode_answer(encode(answer), type(answer))) == vars(answer)


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_may_come_in_place_of_any_answer(code: RefusalCode) -> None:
    refusal = Refusal(site="north", code=code, reason="no training pictures")

    assert vars(decode_answer(encode(refusal), Update)) == vars(refusal)


def test_a_refusal_of_an_unknown_code_is_refused() -> None:
    content = encode(Refusal(site="north", code=RefusalCode.UNABLE, reason="no"))
    content.config_records["fovea"]["code"] = "moody"

    with pytest.raises(WireError, match=r"code: expected one of unable, .*, got 'moody'"):
        decode_answer(content, Update)


@pytest.mark.parametrize(
    "request_",
    [
        QueryRequest(run="run"),
        EvaluateRequest("run", 1, "{}", {}),
        TrainRequest("run", 1, 0, 1, 0.0, True, "{}", {}),
        KeysRequest("run", 0, "{}", "{}"),
        UnmaskRequest("run", 1, "{}", "{}"),
    ],
    ids=["query", "evaluate", "train", "keys", "unmask"],
)
def test_a_request_is_read_without_knowing_which_it_is(request_: Request) -> None:
    arrived = decode_any_request(encode(request_))

    assert type(arrived) is type(request_)
    assert vars(arrived) == vars(request_)


def test_an_answer_is_no_request() -> None:
    with pytest.raises(WireError, match="expected a request, got 'update'"):
        decode_any_request(encode(an_update()))


@pytest.mark.parametrize("value", [1, 0.0, "true"])
def test_a_fact_must_be_true_or_false(value: float | str) -> None:
    content = encode(TrainRequest("run", 1, 0, 1, 0.0, True, "{}", {}))
    content.config_records["fovea"]["evaluates"] = value

    with pytest.raises(WireError, match="evaluates: expected true or false"):
        decode_request(content, TrainRequest)


def test_record_keys_are_kebab_case() -> None:
    assert set(encode(an_update()).config_records["fovea"]) == {
        "kind", "version", "run", "server-round", "site", "task", "num-examples", "num-steps",
        "precision",
    }  # fmt: skip


def test_another_kind_of_message_is_refused() -> None:
    with pytest.raises(WireError, match="expected 'update', got 'site-card'"):
        decode_answer(encode(SiteCard("north", "chestx", 1, 1, "{}")), Update)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("server-round", "one", "server-round: expected a number"),
        ("server-round", 1.5, "server-round: expected a whole number"),
        ("num-examples", -1, "num-examples: expected a finite number of at least 0"),
        ("num-examples", True, "num-examples: expected a number, got bool"),
        ("site", "", "site: expected text"),
        ("patient-id", "p1", "unknown key 'patient-id'"),
        ("version", 99, "version: expected 3, got 99"),
        ("version", 3.0, "version: expected 3, got 3.0"),
        ("precision", "int4", "precision: expected one of float32, bfloat16, int8, got 'int4'"),
        ("precision", "bfloat16", r"trunk\.weight: expected uint16, got float32"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: str | float, message: str) -> None:
    content = encode(an_update())
    content.config_records["fovea"][key] = value

    with pytest.raises(WireError, match=message):
        decode_answer(content, Update)


def test_a_missing_key_is_named() -> None:
    content = encode(an_update())
    del content.config_records["fovea"]["num-steps"]

    with pytest.raises(WireError, match="'num-steps' is missing"):
        decode_answer(content, Update)


def test_a_foreign_record_is_refused() -> None:
    content = encode(an_update())
    content["saliency"] = ArrayRecord({})

    with pytest.raises(WireError, match="unknown record 'saliency'"):
        decode_answer(content, Update)


def test_records_of_something_else_are_refused() -> None:
    with pytest.raises(WireError, match="'fovea' is missing"):
        decode_answer(RecordDict({"config": ConfigRecord({"lr": 0.1})}), Update)


def packed(arrays: dict[str, np.ndarray]) -> RecordDict:
    """An update whose arrays were packed by somebody else."""
    content = encode(an_update())
    order = np.frombuffer(json.dumps(list(arrays)).encode(), dtype=np.uint8)
    file = np.frombuffer(save({**arrays, "__order__": order}), dtype=np.uint8)
    content["arrays"] = ArrayRecord({"packed": Array(file)})
    return content


def test_a_model_travels_as_one_array_however_many_it_has() -> None:
    arrays = {f"trunk.{number}": np.ones(3, dtype=np.float32) for number in range(200)}

    assert list(encode(an_update(arrays=arrays)).array_records["arrays"]) == ["packed"]


def test_arrays_of_another_type_are_refused_on_both_ends() -> None:
    doubles = {"trunk.weight": np.ones(2)}

    with pytest.raises(WireError, match=r"trunk\.weight: expected float32, got float64"):
        encode(an_update(arrays=doubles))
    with pytest.raises(WireError, match=r"trunk\.weight: expected float32, got float64"):
        decode_answer(packed(doubles), Update)


@pytest.mark.parametrize(
    "name", ["a b", "trunk.weight\n", "", "trunk/weight", "a\x1b[2K", "gew\u00e4cht"]
)
def test_array_under_a_name_that_is_not_plain_is_refused_on_both_ends(name: str) -> None:
    arrays = {name: np.ones(2, dtype=np.float32)}

    with pytest.raises(WireError, match="is not of letters, digits"):
        encode(an_update(arrays=arrays))
    with pytest.raises(WireError, match="is not of letters, digits"):
        decode_answer(packed(arrays), Update)


def test_arrays_that_are_not_packed_are_refused() -> None:
    content = encode(an_update())
    content["arrays"] = ArrayRecord({"trunk.weight": Array(np.ones(2, dtype=np.float32))})

    with pytest.raises(WireError, match="expected the one array 'packed'"):
        decode_answer(content, Update)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (np.ones(4, dtype=np.float32), "expected bytes, got float32"),
        (np.ones((2, 2), dtype=np.uint8), "of 2 dimensions"),
        (np.zeros(0, dtype=np.uint8), "cannot be unpacked"),
        (np.full(64, 255, dtype=np.uint8), "cannot be unpacked"),
        (np.frombuffer(save({"a": np.ones(1, np.float32)}), dtype=np.uint8), "cannot be unpacked"),
    ],
    ids=["floats", "a table", "nothing", "noise", "no order"],
)
def test_what_is_no_package_is_refused(file: np.ndarray, message: str) -> None:
    content = encode(an_update())
    content["arrays"] = ArrayRecord({"packed": Array(file)})

    with pytest.raises(WireError, match=message):
        decode_answer(content, Update)


def test_names_that_do_not_agree_with_the_arrays_are_refused() -> None:
    content = encode(an_update())
    order = np.frombuffer(b'["trunk.bias"]', dtype=np.uint8)
    arrays = {"trunk.weight": np.ones(1, dtype=np.float32), "__order__": order}
    content["arrays"] = ArrayRecord({"packed": Array(np.frombuffer(save(arrays), dtype=np.uint8))})

    with pytest.raises(WireError, match="do not agree"):
        decode_answer(content, Update)


def test_pickled_objects_are_not_read() -> None:
    content = encode(an_update())
    pickled = Array("float32", (1,), "numpy.ndarray", b"\x93NUMPY\x01\x00v\x00{'descr': '|O'")
    content["arrays"] = ArrayRecord({"packed": pickled})

    with pytest.raises(WireError, match="arrays: not a readable array"):
        decode_answer(content, Update)


@given(
    st.dictionaries(
        names, arrays(np.uint32, array_shapes(max_dims=1, min_side=0, max_side=5)), max_size=3
    )
)
def test_a_masked_update_survives_the_way(masked: dict[str, np.ndarray]) -> None:
    answer = MaskedUpdate("run", 1, "north", "chestx", '{"next": null}', masked)

    arrived = decode_answer(encode(answer), MaskedUpdate)

    assert isinstance(arrived, MaskedUpdate)
    assert same_arrays(arrived.masked, masked)
    assert {**vars(arrived), "masked": None} == {**vars(answer), "masked": None}


def test_a_masked_update_of_anything_but_whole_numbers_is_refused() -> None:
    with pytest.raises(WireError, match="trunk: expected uint32, got float32"):
        encode(MaskedUpdate("run", 1, "north", "chestx", "{}", {"trunk": np.ones(2, np.float32)}))  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("precision", "bytes_each"), [("float32", 4), ("bfloat16", 2), ("int8", 1)]
)
def test_a_coarser_update_travels_in_fewer_bytes(precision: Precision, bytes_each: int) -> None:
    values = np.random.default_rng(3).normal(size=100_000).astype(np.float32)
    update = an_update(arrays=rounded({"trunk.weight": values}, precision), precision=precision)

    size = len(to_bytes(encode(update)))

    assert bytes_each * values.size < size < bytes_each * values.size + 2000


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_an_update_that_was_not_rounded_is_not_sent_as_if_it_were(precision: Precision) -> None:
    values = np.array([1.0, 1.0001, 0.3], dtype=np.float32)

    with pytest.raises(WireError, match=r"trunk\.weight: its numbers need more bits"):
        encode(an_update(arrays={"trunk.weight": values}, precision=precision))


def coarse(counts: list[int], exponents: list[int]) -> RecordDict:
    """An update in int8 that somebody else has packed."""
    content = encode(an_update(arrays={"a": np.zeros(3, np.float32)}, precision="int8"))
    order = np.frombuffer(b'["a"]', dtype=np.uint8)
    stored = {
        "a": np.array(counts, dtype=np.int8),
        "__order__": order,
        "__exponents__": np.array(exponents, dtype=np.int16),
    }
    content["arrays"] = ArrayRecord({"packed": Array(np.frombuffer(save(stored), dtype=np.uint8))})
    return content


def test_the_hand_packed_update_is_read_where_it_is_right() -> None:
    arrived = decode_answer(coarse([64, -127, 0], [-3]), Update)

    assert isinstance(arrived, Update)
    assert arrived.arrays["a"].tolist() == [8.0, -127 / 8, 0.0]


@pytest.mark.parametrize(
    ("counts", "exponents", "message"),
    [
        ([64, 1, 0], [], "one exponent for each array"),
        ([64, 1, 0], [1, 2], "one exponent for each array"),
        ([64, 1, 0], [122], r"a step of 2\^122"),
        ([64, 1, 0], [-127], r"a step of 2\^-127"),
        ([1, 2, 3], [4], "not in the steps that its numbers give"),
        ([-128, 1, 0], [0], "not in the steps that its numbers give"),
        ([0, 0, 0], [0], "not in the steps that its numbers give"),
    ],
)
def test_steps_that_fovea_would_not_write_are_refused(
    counts: list[int], exponents: list[int], message: str
) -> None:
    with pytest.raises(WireError, match=message):
        decode_answer(coarse(counts, exponents), Update)


def with_notes(content: RecordDict) -> None:
    order = np.frombuffer(b'["trunk.weight"]', dtype=np.uint8)
    stored = {"trunk.weight": np.ones((2, 3), np.float32), "__order__": order}
    file = save(stored, metadata={"patient": "Jane Doe"})
    content["arrays"] = ArrayRecord({"packed": Array(np.frombuffer(file, dtype=np.uint8))})


def with_spaces(content: RecordDict) -> None:
    order = np.frombuffer(b'[ "trunk.weight" ]', dtype=np.uint8)
    stored = {"trunk.weight": np.ones((2, 3), np.float32), "__order__": order}
    content["arrays"] = ArrayRecord({"packed": Array(np.frombuffer(save(stored), dtype=np.uint8))})


def with_bytes_behind(content: RecordDict) -> None:
    packed = content.array_records["arrays"]["packed"]
    longer = Array(packed.dtype, packed.shape, packed.stype, packed.data + b"Jane Doe")
    content["arrays"] = ArrayRecord({"packed": longer})


def with_another_type_beside(content: RecordDict) -> None:
    packed = content.array_records["arrays"]["packed"]
    named = Array("Jane Doe", packed.shape, packed.stype, packed.data)
    content["arrays"] = ArrayRecord({"packed": named})


@pytest.mark.parametrize(
    "smuggle", [with_notes, with_spaces, with_bytes_behind, with_another_type_beside]
)
def test_bytes_without_a_meaning_are_refused(smuggle: Callable[[RecordDict], None]) -> None:
    content = encode(an_update())
    smuggle(content)

    with pytest.raises(WireError, match="packed in another way"):
        decode_answer(content, Update)


def unknown_field(content: bytes) -> bytes:
    return content + b"\x7a\x08Jane Doe"  # field 15, eight bytes


def unknown_field_inside(content: bytes) -> bytes:
    message = RecordDictMessage.FromString(content)
    message.items[0].config_record.MergeFromString(b"\x7a\x08Jane Doe")
    return message.SerializeToString()


def same_record_twice(content: bytes) -> bytes:
    message = RecordDictMessage.FromString(content)
    message.items.add().CopyFrom(message.items[0])
    return message.SerializeToString()


def same_key_twice(content: bytes) -> bytes:
    message = RecordDictMessage.FromString(content)
    items = message.items[0].config_record.items
    items.add().CopyFrom(items[0])
    items[0].value.string = "Jane Doe"
    return message.SerializeToString()


@pytest.mark.parametrize(
    "smuggle", [unknown_field, unknown_field_inside, same_record_twice, same_key_twice]
)
def test_a_message_in_another_form_is_not_read(smuggle: Callable[[bytes], bytes]) -> None:
    content = to_bytes(encode(an_update()))
    assert to_bytes(from_bytes(content)) == content

    with pytest.raises(WireError, match="not in the form that Fovea writes"):
        from_bytes(smuggle(content))


@pytest.mark.parametrize("name", ["../auroc", "central/x", "Total", "a" * 65])
def test_metric_under_a_name_that_is_not_plain_is_refused(name: str) -> None:
    content = encode(an_update())
    content["metrics"] = MetricRecord({name: 0.5})

    with pytest.raises(WireError, match=r"metrics: the name .* lower-case letters"):
        decode_answer(content, Update)


def test_too_many_metrics_are_refused() -> None:
    content = encode(an_update())
    content["metrics"] = MetricRecord({f"m{number}": 0.5 for number in range(65)})

    with pytest.raises(WireError, match="expected at most 64, got 65"):
        decode_answer(content, Update)


@pytest.mark.parametrize("record", ["metrics", "evaluation"])
def test_non_finite_metrics_are_refused(record: str) -> None:
    content = encode(an_update())
    content[record] = MetricRecord({"total": float("nan")})

    with pytest.raises(WireError, match=rf"{record}\.total: expected one finite number"):
        decode_answer(content, Update)


def test_a_card_whose_json_is_broken_is_refused() -> None:
    with pytest.raises(WireError, match="data-card-json: not JSON"):
        decode_answer(encode(SiteCard("north", "chestx", 1, 1, "{pictures")), SiteCard)
