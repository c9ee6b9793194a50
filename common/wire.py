"""What coordinator and sites say to each other: typed messages ⇄ Flower records.

The only file that knows record keys (kebab-case). Arrays are float32 and named as the network's
state: ``trunk.*`` and ``heads.<task>.*``; an update's arrays are relative to the round's global
model, and travel in as few bits as its precision has. A masked update holds whole numbers modulo
2^32 instead, one array for each group of sites that is summed; its notes and the two light messages
around it are JSON of common/secure_sum/statements.py. Metrics are named in lower-case letters,
digits and ``_``; arrays may have capitals and dots as well. Whatever does not keep the contract is
a WireError that names the key.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from common.errors import WireError
from common.packed import pack, pack_rounded, unpack, unpack_rounded
from common.precision import PRECISIONS, Precision

Arrays = Mapping[str, NDArray[np.float32]]
Metrics = Mapping[str, float]

WIRE_VERSION = 3

MaskedSums = Mapping[str, NDArray[np.uint32]]  # group → what a site adds to it, masked
NOT_SECURE = "{}"  # in place of notes on the secure sum, where there is none

_HEADER = "fovea"
_ARRAYS = "arrays"
_MASKED = "masked"
_PACKED = "packed"
_METRICS = "metrics"
_EVALUATION = "evaluation"
_METRIC_RECORDS = (_METRICS, _EVALUATION)

_ARRAY_NAME = re.compile(r"[A-Za-z0-9_.]+")  # as a network's state names them
_METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")  # fit for paths, tables and MLflow
MAX_METRICS = 64


@dataclass(frozen=True, eq=False)
class QueryRequest:
    """Asks a site who it is and what it holds."""

    run: str


@dataclass(frozen=True, eq=False)
class SiteCard:
    """What a site says of itself: counts only."""

    site: str
    task: str
    num_examples: int  # training pictures
    num_val: int  # pictures of its validation split
    data_card_json: str  # the data card's counts, a JSON object


@dataclass(frozen=True, eq=False)
class TrainRequest:
    """Asks a site for the local epochs of one round."""

    run: str
    server_round: int
    global_step: int  # optimiser steps this site has behind it
    total_steps: int  # steps of this site in the whole run, where the cosine ends
    proximal_mu: float  # 0: no proximal term
    evaluates: bool  # measure the model that comes with this, before training
    config_json: str  # a RunConfig that holds what the site needs of the run's
    arrays: Arrays  # trunk and the site's own head
    secure_json: str = NOT_SECURE  # a RoundOpening of the secure sum; or a plain update is wanted


@dataclass(frozen=True, eq=False)
class Update:
    """What a site returns: its change of the round's global model, counts and metrics."""

    run: str
    server_round: int
    site: str
    task: str
    num_examples: int
    num_steps: int
    metrics: Metrics  # means over the round: loss parts; and seconds
    evaluation: Metrics  # of the model it was sent; empty when not asked for, or nothing to tell
    arrays: Arrays  # local minus global
    precision: Precision = "float32"  # to which the arrays are rounded, and in which they travel


@dataclass(frozen=True, eq=False)
class EvaluateRequest:
    """Asks a site to measure the global model on its validation split."""

    run: str
    server_round: int
    config_json: str
    arrays: Arrays


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A site's measurement; what is undefined there is left out."""

    run: str
    server_round: int
    site: str
    task: str
    num_examples: int
    metrics: Metrics


@dataclass(frozen=True, eq=False)
class MaskedUpdate:
    """What a site adds to the sums of a round: nobody can read it but together with all others."""

    run: str
    server_round: int
    site: str
    task: str
    secure_json: str  # a MaskedNote
    masked: MaskedSums


@dataclass(frozen=True, eq=False)
class KeysRequest:
    """Asks a site for its keys of a secure sum: for the run, or for one round."""

    run: str
    server_round: int  # 0: the key for the run
    config_json: str
    keys_json: str  # a MemberList when it is for a round; NOT_SECURE when for the run


@dataclass(frozen=True, eq=False)
class Keys:
    """A site's signed keys."""

    run: str
    server_round: int
    site: str
    task: str
    keys_json: str  # a MemberKey for the run, a Bundle for a round


@dataclass(frozen=True, eq=False)
class UnmaskRequest:
    """Asks a site to help open the sums of a round, now that it is known who is in them."""

    run: str
    server_round: int
    config_json: str
    unmask_json: str  # an Unmasking


@dataclass(frozen=True, eq=False)
class Shares:
    """What a site gives to open the sums of one round."""

    run: str
    server_round: int
    site: str
    task: str
    shares_json: str  # an OpenedShares


class RefusalCode(StrEnum):
    """Why a site says no, for machines; the reason beside it is for people."""

    UNABLE = "unable"  # the shard, the network or the training does not allow it
    UNREADABLE = "unreadable"  # the request does not keep this contract
    UNTRUSTED = (
        "untrusted"  # manifest or request are not what the pinned run key signed, or expired
    )
    OUT_OF_ORDER = "out-of-order"  # a round that is over, or another request for the same round
    NOT_APPROVED = "not-approved"  # waits for a person at the site
    FORBIDDEN = "forbidden"  # the site's policy says no
    PAUSED = "paused"  # a person at the site has paused it
    UNAVAILABLE = "unavailable"  # the site cannot train just now: trainer away, disk full


# What a site says no to now, it may say yes to later; the others are final for this request.
PASSING_REFUSALS = frozenset(
    {RefusalCode.NOT_APPROVED, RefusalCode.PAUSED, RefusalCode.UNAVAILABLE}
)


@dataclass(frozen=True, eq=False)
class Refusal:
    """A site says no. A result, not a failure: the round goes on without it."""

    site: str
    code: RefusalCode
    reason: str


Request = QueryRequest | TrainRequest | EvaluateRequest | KeysRequest | UnmaskRequest
Release = SiteCard | Update | MaskedUpdate | Evaluation | Keys | Shares  # all but a refusal
Answer = Release | Refusal

RequestT = TypeVar(
    "RequestT", QueryRequest, TrainRequest, EvaluateRequest, KeysRequest, UnmaskRequest
)
AnswerT = TypeVar("AnswerT", SiteCard, Update, MaskedUpdate, Evaluation, Keys, Shares)
MessageT = TypeVar(
    "MessageT",
    QueryRequest,
    TrainRequest,
    EvaluateRequest,
    KeysRequest,
    UnmaskRequest,
    SiteCard,
    Update,
    MaskedUpdate,
    Evaluation,
    Keys,
    Shares,
    Refusal,
)

_KINDS: dict[type[Request | Answer], str] = {
    QueryRequest: "query-request",
    SiteCard: "site-card",
    TrainRequest: "train-request",
    Update: "update",
    EvaluateRequest: "evaluate-request",
    Evaluation: "evaluation",
    MaskedUpdate: "masked-update",
    KeysRequest: "keys-request",
    Keys: "keys",
    UnmaskRequest: "unmask-request",
    Shares: "shares",
    Refusal: "refusal",
}


def encode(message: Request | Answer) -> RecordDict:
    """Return a message as Flower records.

    Raises WireError for arrays that are not float32, or not rounded to the update's precision.
    """
    header = ConfigRecord({"kind": _KINDS[type(message)], "version": WIRE_VERSION})
    content = RecordDict({_HEADER: header})
    for field in fields(message):
        value = getattr(message, field.name)
        if field.name == "arrays":
            _check_array_names(value)
            precision = message.precision if isinstance(message, Update) else "float32"
            content[_ARRAYS] = ArrayRecord({_PACKED: pack_rounded(value, precision=precision)})
        elif field.name == _MASKED:
            _check_array_names(value)
            content[_MASKED] = ArrayRecord({_PACKED: pack(value, dtype=np.uint32)})
        elif field.name in _METRIC_RECORDS:
            content[field.name] = MetricRecord({name: float(part) for name, part in value.items()})
        elif field.type is float:
            header[_key(field.name)] = float(value)
        else:
            header[_key(field.name)] = str(value) if isinstance(value, StrEnum) else value
    return content


def decode_request(content: RecordDict, kind: type[RequestT]) -> RequestT:
    """Return the request that the records hold. Raises WireError naming what is wrong."""
    return _decode(content, kind)


def decode_any_request(content: RecordDict) -> Request:
    """Return the request that the records hold, whichever it is. Raises WireError likewise."""
    came = _kind_of(content)
    if came == _KINDS[QueryRequest]:
        return _decode(content, QueryRequest)
    if came == _KINDS[TrainRequest]:
        return _decode(content, TrainRequest)
    if came == _KINDS[EvaluateRequest]:
        return _decode(content, EvaluateRequest)
    if came == _KINDS[KeysRequest]:
        return _decode(content, KeysRequest)
    if came == _KINDS[UnmaskRequest]:
        return _decode(content, UnmaskRequest)
    raise WireError(f"message kind: expected a request, got {came!r}.")


def kind_of_request(request: Request) -> str:
    """Return the name of a request's kind as it stands on the wire."""
    return _KINDS[type(request)]


def decode_answer(content: RecordDict, kind: type[AnswerT]) -> AnswerT | Refusal:
    """Return a site's answer, which may be a refusal. Raises WireError naming what is wrong."""
    if _kind_of(content) == _KINDS[Refusal]:
        return _decode(content, Refusal)
    return _decode(content, kind)


def refusal_code(content: RecordDict) -> str | None:
    """Return the code of an answer that is a refusal, as it stands there; None for any other."""
    header = content.config_records.get(_HEADER)
    if header is None or header.get("kind") != _KINDS[Refusal]:
        return None
    return str(header.get("code"))


def _decode(content: RecordDict, kind: type[MessageT]) -> MessageT:
    came, expected = _kind_of(content), _KINDS[kind]
    if came != expected:
        raise WireError(f"message kind: expected {expected!r}, got {came!r}.")
    header = content.config_records[_HEADER]
    values: dict[str, object] = {}
    for field in fields(kind):
        if field.name == "arrays":
            values[_ARRAYS] = _read_arrays(content, _precision_of(header, kind))
        elif field.name == _MASKED:
            values[_MASKED] = _read_masked(content)
        elif field.name in _METRIC_RECORDS:
            values[field.name] = _read_metrics(content, field.name)
        else:
            values[field.name] = _read_scalar(header, _key(field.name), field.type)
    expected_keys = {_key(name) for name in values} | {"kind", "version"}
    if unknown := sorted(set(header) - expected_keys):
        raise WireError(f"{expected}: unknown key {unknown[0]!r}. {_REMEDY}")
    expected_records = {_HEADER} | ({_ARRAYS, _MASKED, *_METRIC_RECORDS} & set(values))
    if unknown := sorted(set(content) - expected_records):
        raise WireError(f"{expected}: unknown record {unknown[0]!r}. {_REMEDY}")
    return kind(**values)  # type: ignore[arg-type]  # each value was checked against its field


_REMEDY = "Both ends must run the same Fovea version."


def _kind_of(content: RecordDict) -> str:
    header = content.config_records.get(_HEADER)
    if header is None:
        raise WireError(f"record {_HEADER!r} is missing. {_REMEDY}")
    version = header.get("version")
    if not isinstance(version, int) or version != WIRE_VERSION:
        raise WireError(f"version: expected {WIRE_VERSION}, got {version!r:.40}. {_REMEDY}")
    kind = header.get("kind")
    if not isinstance(kind, str):
        raise WireError(f"kind: expected text, got {kind!r}. {_REMEDY}")
    return kind


def _key(field: str) -> str:
    return field.replace("_", "-")


def _read_scalar(header: ConfigRecord, key: str, kind: object) -> str | int | float | bool:
    if key not in header:
        raise WireError(f"key {key!r} is missing. {_REMEDY}")
    value = header[key]
    if kind is str:
        return _text(key, value)
    if kind is RefusalCode:
        return _refusal_code(key, value)
    if kind == Precision:
        return _precision(key, value)
    if kind is bool:
        if not isinstance(value, bool):
            raise WireError(f"{key}: expected true or false, got {value!r:.40}.")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WireError(f"{key}: expected a number, got {type(value).__name__}.")
    if type(value) is not kind:
        wanted = "whole number" if kind is int else "number with a fraction"
        raise WireError(f"{key}: expected a {wanted}, got {value}.")
    if not (math.isfinite(value) and value >= 0):
        raise WireError(f"{key}: expected a finite number of at least 0, got {value}.")
    return value


def _refusal_code(key: str, value: object) -> RefusalCode:
    try:
        return RefusalCode(_text(key, value))
    except ValueError as error:
        known = ", ".join(RefusalCode)
        raise WireError(f"{key}: expected one of {known}, got {value!r:.40}.") from error


def _precision(key: str, value: object) -> Precision:
    for precision in PRECISIONS:
        if value == precision:
            return precision
    raise WireError(f"{key}: expected one of {', '.join(PRECISIONS)}, got {value!r:.40}.")


def _precision_of(header: ConfigRecord, kind: type[Request | Answer]) -> Precision:
    """Return in how many bits a message's arrays travel; only an update says so."""
    if kind is not Update:
        return "float32"
    return _precision("precision", header.get("precision"))


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise WireError(f"{key}: expected text, got {value!r:.40}.")
    if key.endswith("-json"):
        try:
            is_object = isinstance(json.loads(value), dict)
        except ValueError as error:
            raise WireError(f"{key}: not JSON: {error}.") from error
        if not is_object:
            raise WireError(f"{key}: expected a JSON object.")
    return value


def _read_arrays(content: RecordDict, precision: Precision) -> dict[str, NDArray[np.float32]]:
    arrays = unpack_rounded(_packed_in(content, _ARRAYS), precision=precision)
    _check_array_names(arrays)
    return arrays


def _read_masked(content: RecordDict) -> dict[str, NDArray[np.uint32]]:
    masked = unpack(_packed_in(content, _MASKED), dtype=np.uint32)
    _check_array_names(masked)
    return masked


def _packed_in(content: RecordDict, key: str) -> Array:
    record = content.array_records.get(key)
    if record is None:
        raise WireError(f"record {key!r} is missing. {_REMEDY}")
    if set(record) != {_PACKED}:
        raise WireError(f"{key}: expected the one array {_PACKED!r}. {_REMEDY}")
    return record[_PACKED]


def _check_array_names(arrays: Iterable[str]) -> None:
    for name in arrays:
        if not _ARRAY_NAME.fullmatch(name):
            raise WireError(
                f"{_ARRAYS}: the name {name[:40]!r} is not of letters, digits, '_' and '.'."
            )


def _read_metrics(content: RecordDict, key: str) -> dict[str, float]:
    record = content.metric_records.get(key)
    if record is None:
        raise WireError(f"record {key!r} is missing. {_REMEDY}")
    if len(record) > MAX_METRICS:
        raise WireError(f"{key}: expected at most {MAX_METRICS}, got {len(record)}.")
    metrics = {}
    for name, value in record.items():
        if not _METRIC_NAME.fullmatch(name):
            raise WireError(
                f"{key}: the name {name[:40]!r} is not of lower-case letters, digits and '_', "
                "at most 64, a letter first."
            )
        if not isinstance(value, float) or not math.isfinite(value):
            raise WireError(f"{key}.{name}: expected one finite number, got {value!r:.40}.")
        metrics[name] = value
    return metrics
