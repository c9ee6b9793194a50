"""Who took part: what came of each site in each round, and what that makes of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """What came of asking one site in one round."""

    ANSWERED = "answered"  # its update is in the model
    REFUSED = "refused"  # the site said no, with a reason
    REJECTED = "rejected"  # the coordinator could not use what the site sent
    FAILED = "failed"  # the site's process failed
    MISSING = "missing"  # nothing came in time
    MEASURED = "measured"  # it measured the round's model, and was not asked to train in it


class Status(StrEnum):
    """The verdict on a run."""

    COMPLETE = "COMPLETE"
    PARTIAL = "PARTIAL"  # a model was trained, but not by everyone in every round
    FAILED = "FAILED"  # no round changed the model


@dataclass(frozen=True)
class Reply:
    """What came of one site in one round."""

    site: str
    outcome: Outcome
    reason: str  # empty when it answered


@dataclass(frozen=True)
class Participation:
    """What came of every site in one round."""

    server_round: int
    replies: tuple[Reply, ...]
    changed_model: bool

    def answered(self) -> tuple[str, ...]:
        """Return the sites whose update is in the model."""
        return tuple(r.site for r in self.replies if r.outcome is Outcome.ANSWERED)


@dataclass(frozen=True)
class Verdict:
    """What to make of a run, each reason one sentence."""

    status: Status
    reasons: tuple[str, ...]


def verdict(
    rounds: Sequence[Participation],
    *,
    sites: Sequence[str],
    required_sites: Sequence[str],
    stopped_after: int | None = None,
) -> Verdict:
    """Judge a run by its rounds.

    COMPLETE when every required site (every site, where none is named as required) answered in
    every round; FAILED when no round changed the model; PARTIAL in between, and when a person
    stopped it after a round. The reasons name every site and round that is missing, those of
    optional sites too: a run may be COMPLETE with reasons.
    """
    stopped: tuple[str, ...] = ()
    if stopped_after is not None:
        stopped = (f"stopped by the coordinator after round {stopped_after}.",)
    required = required_sites or sites
    binding = _reasons(rounds, required, called="site")
    others = [site for site in sites if site not in required]
    optional = _reasons(rounds, others, called="optional site")
    if not any(participation.changed_model for participation in rounds):
        reasons = (*binding, *optional) or ("no round took place.",)
        return Verdict(Status.FAILED, (*stopped, *reasons))
    if unchanged := [p.server_round for p in rounds if not p.changed_model]:
        binding = (*binding, f"too few updates in {_rounds(unchanged)}: the model stayed.")
    status = Status.PARTIAL if stopped or binding else Status.COMPLETE
    return Verdict(status, (*stopped, *binding, *optional))


def _reasons(
    rounds: Sequence[Participation], sites: Sequence[str], *, called: str
) -> tuple[str, ...]:
    reasons: list[str] = []
    for site in sites:
        seen: dict[tuple[str, str], list[int]] = {}
        for participation in rounds:
            reply = _reply_of(site, participation)
            if reply.outcome is not Outcome.ANSWERED:
                seen.setdefault((reply.outcome, reply.reason), []).append(
                    participation.server_round
                )
        reasons.extend(_sentence(f"{called} {site}", how, numbers) for how, numbers in seen.items())
    return tuple(reasons)


def _reply_of(site: str, participation: Participation) -> Reply:
    replies: Mapping[str, Reply] = {reply.site: reply for reply in participation.replies}
    return replies.get(site, Reply(site, Outcome.MISSING, "it was not there"))


def _sentence(site: str, how: tuple[str, str], numbers: Sequence[int]) -> str:
    outcome, reason = how
    return f"{site} {_SAID[outcome]} in {_rounds(numbers)}: {reason}."


_SAID: Mapping[str, str] = {
    Outcome.REFUSED: "refused",
    Outcome.REJECTED: "sent an unusable update",
    Outcome.FAILED: "failed",
    Outcome.MISSING: "did not answer",
}


def _rounds(numbers: Sequence[int]) -> str:
    return f"round{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
