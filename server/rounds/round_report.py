"""What the rounds tell those who measure, record and watch them, and what they are told back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from common.messages.kinds import Arrays, Metrics, SiteCard
from common.secure_sum.layout import Measure
from server.exchange.participation import Outcome, Reply
from server.exchange.traffic import Traffic


class CentralResult(Protocol):
    """What a central evaluation found; the rounds need only its score."""

    @property
    def score(self) -> float | None:
        """Mean over the tasks of the selection part's score; None where no task has one."""
        ...


@dataclass(frozen=True, eq=False)
class Beside:
    """What an evaluation may look at beside the round's model, and nobody keeps after it."""

    may_be_last: bool  # no later round is sure to come: what is done once is done now
    start: Arrays  # the model that the sites were sent
    changes: Mapping[str, Arrays]  # site → its own change of it; empty under masks, and in round 0


NOTHING_BESIDE = Beside(may_be_last=False, start={}, changes={})

ResultT = TypeVar("ResultT", bound=CentralResult)
ResultT_co = TypeVar("ResultT_co", bound=CentralResult, covariant=True)
ResultT_contra = TypeVar("ResultT_contra", bound=CentralResult, contravariant=True)


class CentralEvaluator(Protocol[ResultT_co]):
    """Measures a global model on the coordinator's reference sets."""

    def __call__(
        self, arrays: Arrays, server_round: int, beside: Beside = NOTHING_BESIDE, /
    ) -> ResultT_co:
        """Return the measurement of one round's model; round 0 is before training."""
        ...


@dataclass(frozen=True)
class SiteRound:
    """What came of one site in one round."""

    site: str
    task: str
    outcome: Outcome
    reason: str
    num_examples: int | None  # training pictures; None when no update was used, or under masks
    metrics: Metrics  # loss parts and seconds; empty when no update was used; under masks epsilon


@dataclass(frozen=True)
class SummedGroup:
    """What the sites of one group say together in one round; nothing in it is one site's."""

    sites: int  # in the sum; 0 where it stayed closed
    reason: str  # why it stayed closed, and its layers as they were; empty when it was opened
    num_examples: int | None = None  # training pictures of all of them; told of the trunk
    clipped: int | None = None  # sites whose update was scaled down; likewise
    # How many sites reach federation.site_floor, of how many that measured it; likewise. None
    # where no floor is set or nobody measured.
    above_floor: tuple[int, int] | None = None
    training: Mapping[str, Measure] = field(default_factory=dict)  # loss parts; likewise
    # Of the model that the sites were sent: that of the round before; told of tasks.
    evaluation: Mapping[str, Measure] = field(default_factory=dict)


@dataclass(frozen=True)
class SecureSums:
    """What is known of a round whose updates were summed under masks."""

    groups: Mapping[str, SummedGroup]  # "trunk", and each task whose head is summed
    reason: str  # why the round changed nothing; empty when its sums were opened


@dataclass(frozen=True, eq=False)
class RoundReport(Generic[ResultT_co]):
    """One finished round; round 0 is the model before training."""

    server_round: int
    sites: tuple[SiteRound, ...]
    changed_model: bool
    central: ResultT_co | None  # None when this round was not evaluated
    is_best: bool  # by central score, of all rounds so far
    model: Arrays
    # What the sites found, by name, of the model that they were sent: that of the round before.
    evaluations_before: Mapping[str, Metrics]
    wall_s: float
    traffic: Traffic = field(default_factory=Traffic)  # in this round, with all sites together
    summed: SecureSums | None = None  # None: the coordinator sees every site's update


class Tracker(Protocol[ResultT_contra]):
    """Where a run's numbers go."""

    def run_started(self, cards: Mapping[str, SiteCard]) -> None:
        """Take in who takes part."""
        ...

    def sites_joined(self, cards: Mapping[str, SiteCard]) -> None:
        """Take in who takes part from this round on."""
        ...

    def keep_round(self, report: RoundReport[ResultT_contra]) -> None:
        """Make durable what is to be told of one round, round 0 included.

        Called before the round's checkpoint is written, so that a run that is continued after it
        lacks nothing; again for the same round when the checkpoint was not written.
        """
        ...

    def round_finished(self, report: RoundReport[ResultT_contra]) -> None:
        """Tell of the round that was kept last."""
        ...

    def sites_measured(self, server_round: int, evaluations: Mapping[str, Metrics]) -> None:
        """Take in what sites found of the last round's model, which no training request brings."""
        ...


class Progress(Protocol):
    """Who watches. Called from the thread that runs the rounds."""

    def waiting_for(self, sites: Sequence[str]) -> None:
        """These sites have not said that they are there."""
        ...

    def round_started(self, server_round: int, *, rounds: int, sites: Sequence[str]) -> None:
        """These sites were asked to train."""
        ...

    def site_answered(self, site: str) -> None:
        """Something came from a site that was asked."""
        ...

    def evaluating(self, server_round: int, *, sites: Sequence[str]) -> None:
        """The model is being measured: by these sites, centrally where none is named."""
        ...

    def round_finished(self, server_round: int, *, replies: Sequence[Reply]) -> None:
        """A round is over; round 0 has no replies."""
        ...
