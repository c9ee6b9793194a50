"""Which masked updates of a round can be used: of this round, signed, and of the agreed size."""

from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import TrustError, WireError
from common.messages.kinds import MaskedUpdate
from common.messages.signing import PublicKey
from common.secure_sum.layout import Layout
from common.secure_sum.statements import ROSTER_PURPOSE, MaskedNote, parsed, roster_statement
from server.rounds.secure.kept import OpenedRound


@dataclass(frozen=True, eq=False)
class Contribution:
    """What one site adds, known to be of its round."""

    update: MaskedUpdate
    note: MaskedNote


def believed(
    update: MaskedUpdate,
    opened: OpenedRound,
    *,
    key: PublicKey,
    scales: Mapping[str, Layout],
) -> Contribution:
    """Return what a site adds. Raises WireError or TrustError naming what is wrong.

    ``key`` is what the site signs with, ``scales`` says how the vector of each of its groups is
    written. What is in it nobody can see: a site that sends other numbers is bounded by its part
    in a mean alone, as its own clipping is.
    """
    if (update.run, update.server_round) != (opened.run, opened.server_round):
        raise WireError(f"it answers round {update.server_round} of run {update.run}")
    task = opened.tasks[update.site]
    if update.task != task:
        raise WireError(f"task is {update.task!r}, its key says {task!r}")
    if differing := sorted(set(scales) ^ set(update.masked)):
        raise WireError(f"the sum of {differing[0]} is missing or was not asked for")
    for group, layout in scales.items():
        shape = update.masked[group].shape
        if shape != (layout.size,):
            raise WireError(f"the sum of {group} has shape {shape}, expected {(layout.size,)}")
    note = parsed(update.secure_json, MaskedNote)
    if note.roster_digest != opened.roster_digest:
        raise TrustError("it was masked for other members or keys than this round's")
    statement = roster_statement(
        run=opened.run, server_round=opened.server_round, digest=note.roster_digest
    )
    key.verify(ROSTER_PURPOSE, statement, note.signature)
    return Contribution(update, note)
