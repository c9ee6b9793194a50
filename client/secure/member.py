"""A site's part in the sums of a run: its keys, its masked update, its help in opening a round.

The flow is in common/secure_sum/statements.py, what is refused in client/secure/checks.py, the
secrets of a round in client/secure/round_secrets.py, what lasts in client/secure/memory.py.

- Secrets are made fresh for each round and lie on the disk before their public halves leave.
- An update is masked once a round. That its masks are used is on the disk, and the secrets are
  gone from it, before the masked update leaves this file. Two updates under the same masks would
  tell their difference; so where a crash comes before the answer is stored, the round goes on
  without this site.
- Of each site of a round one kind of share is given out, and once: the same unmasking again gets
  the same answer, any other none. Two sums over different sites would tell their difference too.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from client.secure.checks import (
    Terms,
    against_context,
    against_members,
    against_opening,
    against_unmasking,
    out_of_order,
    unreadable,
    untrusted,
)
from client.secure.memory import (
    Masked,
    Opened,
    RoundMemory,
    RoundSecrets,
    RunMemory,
    SecureMemory,
)
from client.secure.round_secrets import Member, fresh_round, letters_to, mask, shares_given
from client.trust.request_config import config_in
from client.trust.signed_request import Denial
from common.config.run import RunConfig
from common.errors import ModelError, TrustError, WireError
from common.messages.kinds import (
    Keys,
    KeysRequest,
    MaskedUpdate,
    Refusal,
    Shares,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.signing import PrivateKey
from common.secure_sum.contribution import contribution
from common.secure_sum.groups import groups_among, groups_of_task
from common.secure_sum.masks import as_base64, from_base64, new_key
from common.secure_sum.opening import threshold
from common.secure_sum.statements import (
    ROSTER_PURPOSE,
    MaskedNote,
    MemberList,
    RoundOpening,
    Unmasking,
    as_text,
    parsed,
    roster_digest,
    roster_statement,
)

AnswerT = TypeVar("AnswerT", Keys, MaskedUpdate, Shares, None)


class SecureMember:
    """One site, in every run that it takes part in.

    Every method raises DataError where what was kept is damaged.
    """

    def __init__(self, folder: Path, *, site: str, task: str, key: PrivateKey) -> None:
        """Take the site's signing key, and the folder for what must last."""
        self._memory = SecureMemory(folder)
        self._site, self._task, self._key = site, task, key
        self._one = threading.Lock()  # two answers at once could give both kinds of shares

    def keys(self, request: KeysRequest, *, terms: Terms) -> Keys | Refusal:
        """Return this site's key for the run, or its bundle for a round.

        The same members get the same bundle; other members get one with new secrets, as long as
        the round was not masked.
        """
        return self._answer(lambda: self._keys(request, terms))

    def objection(self, request: TrainRequest, *, terms: Terms) -> Refusal | None:
        """Return why no update would be masked for this round; to be asked before training.

        The request must be as it came: what it asks of this site is compared with what all are
        asked.
        """

        def objected() -> Denial | None:
            found = self._accepted(request, terms)
            return found if isinstance(found, Denial) else None

        return self._answer(objected)

    def masked(
        self, request: TrainRequest, update: Update, *, terms: Terms
    ) -> MaskedUpdate | Refusal:
        """Return the update under masks, and with it the bundle of the next round.

        A second call for the round is refused, whatever it brings. Raises DataError for an update
        that is not finite.
        """

        def answer() -> MaskedUpdate | Denial:
            found = self._accepted(request, terms)
            return found if isinstance(found, Denial) else self._masked(request, update, found)

        return self._answer(answer)

    def shares(self, request: UnmaskRequest, *, terms: Terms) -> Shares | Refusal:
        """Return what this site gives to open a round that it masked in."""
        return self._answer(lambda: self._shares(request, terms))

    def _answer(self, work: Callable[[], AnswerT | Denial]) -> AnswerT | Refusal:
        with self._one:
            try:
                found = work()
            except (WireError, ModelError) as error:
                found = unreadable(str(error))
            except TrustError as error:
                found = untrusted(str(error))
        if isinstance(found, Denial):
            return Refusal(site=self._site, code=found.code, reason=found.reason)
        return found

    # --- keys ------------------------------------------------------------------------------

    def _keys(self, request: KeysRequest, terms: Terms) -> Keys | Denial:
        run, server_round = request.run, request.server_round
        if server_round == 0:
            text = as_text(self._made_member(run).statement)
        else:
            members = parsed(request.keys_json, MemberList)
            config = config_in(request.config_json)
            me = self._member(run)
            own = None if me is None else me.statement
            if denial := next(against_members(members, own=own, config=config, terms=terms), None):
                return denial
            if denial := self._over(run, server_round, config):
                return denial
            text = as_text(
                self._round(self._made_member(run), server_round, members, config).bundle
            )
        return Keys(
            run=run,
            server_round=server_round,
            site=self._site,
            task=self._task,
            keys_json=text,
        )

    def _over(self, run: str, server_round: int, config: RunConfig) -> Denial | None:
        memory = self._memory.run(run)
        if memory is not None and server_round <= memory.masked_round:
            return out_of_order(f"round {server_round} is over, it masked in {memory.masked_round}")
        if server_round > config.federation.rounds:
            return out_of_order(f"the run has {config.federation.rounds} rounds")
        return None

    def _member(self, run: str) -> Member | None:
        """Return this site as the run knows it, None before it was asked for its key."""
        memory = self._memory.run(run)
        if memory is None or memory.letter_key is None:
            return None
        letter_key = from_base64(memory.letter_key)
        return Member(run, self._site, self._task, self._key, letter_key)

    def _made_member(self, run: str) -> Member:
        if (me := self._member(run)) is not None:
            return me
        memory, letter_key = self._memory.run(run), new_key()
        masked_round = 0 if memory is None else memory.masked_round
        fresh = RunMemory(letter_key=as_base64(letter_key), masked_round=masked_round)
        self._memory.keep_run(run, fresh)
        return Member(run, self._site, self._task, self._key, letter_key)

    def _round(
        self, me: Member, server_round: int, members: MemberList, config: RunConfig
    ) -> RoundMemory:
        """Return the secrets of a round to come, on the disk: the same for the same members."""
        groups = groups_of_task(config, self._task)
        kept = self._memory.round(me.run, server_round)
        if (
            kept is not None
            and kept.bundle.key.members_digest == members.digest
            and kept.groups == groups
        ):
            return kept
        sites = len(config.sites)
        made = fresh_round(me, members, server_round=server_round, groups=groups, sites=sites)
        self._memory.keep_round(me.run, made)
        return made

    # --- masking ---------------------------------------------------------------------------

    def _accepted(self, request: TrainRequest, terms: Terms) -> "_Accepted | Denial":
        """Return a round as it was opened, all of it believed."""
        run, server_round = request.run, request.server_round
        opening = parsed(request.secure_json, RoundOpening)
        config = config_in(request.config_json)
        members, me = MemberList(members=opening.members), self._member(run)
        own = None if me is None else me.statement
        if denial := next(against_members(members, own=own, config=config, terms=terms), None):
            return denial
        if me is None or own is None:
            return untrusted("this site has no key in this run")
        if denial := self._over(run, server_round, config):
            return denial
        memory = self._memory.round(run, server_round)
        reasons = against_opening(
            opening,
            memory=memory,
            own=own,
            server_round=server_round,
            config=config,
            terms=terms,
        )
        told = against_context(
            opening.context, request=request, task=self._task, run_digest=terms.run_digest
        )
        if denial := next(chain(reasons, told), None):
            return denial
        if memory is None or memory.secrets is None:
            return out_of_order(f"it has no masks for round {server_round}")
        letters = letters_to(me, opening, server_round=server_round, config=config)
        masked = Masked(
            roster_digest=roster_digest(opening),
            needed=max(threshold(len(config.sites)), terms.least),
            groups=groups_among(config, {key.site for key in opening.keys}),
            least=terms.least,
            keys=opening.keys,
            letters={**letters, self._site: memory.own},
        )
        return _Accepted(me, config, opening, members, memory, memory.secrets, masked)

    def _masked(
        self, request: TrainRequest, update: Update, found: "_Accepted"
    ) -> MaskedUpdate | Denial:
        run, server_round = request.run, request.server_round
        shapes = {name: array.shape for name, array in request.arrays.items()}
        vectors = contribution(update, found.config, shapes=shapes)
        masked = mask(
            vectors,
            found.secrets,
            found.opening,
            me=found.me,
            server_round=server_round,
            config=found.config,
        )
        is_last = server_round >= found.config.federation.rounds
        following = (
            None
            if is_last
            else self._round(found.me, server_round + 1, found.members, found.config).bundle
        )
        # From here on the masks are used, whatever becomes of the answer.
        used = found.memory.model_copy(update={"secrets": None, "masked": found.masked})
        self._memory.keep_round(run, used)
        self._memory.close_rounds(run, masked_round=server_round)
        digest = found.masked.roster_digest
        statement = roster_statement(run=run, server_round=server_round, digest=digest)
        signature = self._key.sign(ROSTER_PURPOSE, statement)
        note = MaskedNote(roster_digest=digest, signature=signature, next=following)
        return MaskedUpdate(
            run=run,
            server_round=server_round,
            site=self._site,
            task=self._task,
            secure_json=as_text(note),
            masked=masked,
        )

    # --- opening ---------------------------------------------------------------------------

    def _shares(self, request: UnmaskRequest, terms: Terms) -> Shares | Denial:
        run, server_round = request.run, request.server_round
        unmasking = parsed(request.unmask_json, Unmasking)
        memory = self._memory.round(run, server_round)
        if memory is None or memory.masked is None:
            return out_of_order(f"it has not masked in round {server_round}, or that is long over")
        reasons = against_unmasking(
            unmasking,
            masked=memory.masked,
            run=run,
            server_round=server_round,
            site=self._site,
            keys={**terms.peers, self._site: self._key.public},
        )
        if denial := next(reasons, None):
            return denial
        asked = as_text(unmasking)
        if memory.opened is None:
            opened = Opened(unmasking=asked, shares=shares_given(memory.masked, unmasking))
            self._memory.keep_round(run, memory.model_copy(update={"opened": opened}))
        elif memory.opened.unmasking == asked:
            opened = memory.opened
        else:
            return out_of_order(
                f"it has helped to open round {server_round} for other survivors already"
            )
        return Shares(
            run=run,
            server_round=server_round,
            site=self._site,
            task=self._task,
            shares_json=as_text(opened.shares),
        )


@dataclass(frozen=True, eq=False)
class _Accepted:
    """A round that this site would mask in."""

    me: Member
    config: RunConfig
    opening: RoundOpening
    members: MemberList
    memory: RoundMemory
    secrets: RoundSecrets
    masked: Masked  # what is kept of the round once it is masked
