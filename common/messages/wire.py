"""Typed messages ⇄ Flower records.

The only file that knows record keys (kebab-case). Arrays travel packed into one, an update's in as
few bits as its precision has. Metrics are named in lower-case letters, digits and ``_``; arrays may
have capitals and dots as well. Whatever does not keep the contract is a WireError that names the
key. What the messages say stands in kinds.py.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import fields
from enum import StrEnum

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from common.errors import WireError
from common.messages.kinds import (
    Answer,
    AnswerT,
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    MessageT,
    QueryRequest,
    Refusal,
    RefusalCode,
    Request,
    RequestT,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.packed import pack, pack_rounded, unpack, unpack_rounded
from common.messages.precision import PRECISIONS, Precision

WIRE_VERSION = 3


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
