"""What coordinator and sites say to each other: every kind of request, answer and refusal.

Arrays are float32 and named as the network's state: ``trunk.*`` and ``heads.<task>.*``; an update's
arrays are relative to the round's global model. A masked update holds whole numbers modulo 2^32
instead, one array for each group of sites that is summed; its notes and the two light messages
around it are JSON of common/secure_sum/statements.py. wire.py turns them into Flower records.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from common.messages.precision import Precision

Arrays = Mapping[str, NDArray[np.float32]]
Metrics = Mapping[str, float]
MaskedSums = Mapping[str, NDArray[np.uint32]]  # group → what a site adds to it, masked
NOT_SECURE = "{}"  # in place of notes on the secure sum, where there is none


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
