"""What a site demands before it adds its update to others' under masks, and before it helps open.

The coordinator passes on what sites say to each other. It must not be able to speak for a site, to
add one of its own making, or to tell sites different things: whatever is not signed by a site whose
key a person here has pinned is refused. Pure: all reasons come out, in the order of their weight.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from client.secure.memory import Masked, RoundMemory
from client.trust.signed_request import Denial
from common.config.run import RunConfig
from common.errors import TrustError
from common.messages.kinds import RefusalCode, TrainRequest
from common.messages.signing import PublicKey
from common.model.layers import TRUNK
from common.secure_sum.context import model_digests
from common.secure_sum.groups import groups_of_task
from common.secure_sum.opening import threshold
from common.secure_sum.statements import (
    ROSTER_PURPOSE,
    MemberKey,
    MemberList,
    RoundContext,
    RoundOpening,
    Unmasking,
    roster_statement,
    verify_member_key,
    verify_round_key,
)

Peers = Mapping[str, PublicKey]  # other sites, as a person at this one has pinned them


@dataclass(frozen=True, eq=False)
class Terms:
    """On what terms a site takes part in the sums of a run."""

    peers: Peers
    least: int  # sites in a sum, this one included: by the run's configuration and the policy here
    run_digest: str  # of the manifest approved here; of config_json where there is no manifest


def against_members(
    members: MemberList, *, own: MemberKey | None, config: RunConfig, terms: Terms
) -> Iterator[Denial]:
    """Yield why no secrets are shared out among these sites."""
    peers = terms.peers
    listed = {member.site: member for member in members.members}
    if own is None or listed.get(own.site) != own:
        yield untrusted("this site's own key is missing from the list of members, or altered")
        return
    tasks = {site.name: site.task for site in config.sites}
    for site, member in listed.items():
        if tasks.get(site) != member.task:
            yield _forbidden(f"member {site} of task {member.task} is not one of the run's sites")
        elif site != own.site and site not in peers:
            yield _forbidden(f"member {site} is not pinned here: `fovea-site peers add {site}`")
        elif member.run != own.run:
            yield untrusted(f"the key of member {site} is of another run")
        elif site != own.site and not _is_signed(partial(verify_member_key, member, peers[site])):
            yield untrusted(f"the key of member {site} is not signed by the key pinned for it")
    if len(listed) < terms.least:
        yield _forbidden(f"{len(listed)} members, a sum needs at least {terms.least}")
    elif len(listed) < (needed := threshold(len(config.sites))):
        yield _forbidden(
            f"{len(listed)} members of the run's {len(config.sites)} sites, opening a round takes "
            f"{needed}"
        )


def against_context(
    context: RoundContext, *, request: TrainRequest, task: str, run_digest: str
) -> Iterator[Denial]:
    """Yield where a round's context is not what this site is asked.

    The context is the same at all sites of a sum, or their masks do not cancel: where it fits the
    request here, all were asked the same.

    Args:
        context: Of the round.
        request: As it came.
        task: This site's.
        run_digest: Of the manifest approved here.
    """
    if context.run_digest != run_digest:
        yield untrusted("the round is of another manifest of this run than was approved here")
    if context.server_round != request.server_round:
        yield untrusted(f"the context is of round {context.server_round}")
    if context.evaluates != request.evaluates:
        yield untrusted("the other sites are not asked alike whether they measure the model")
    if context.proximal_mu != request.proximal_mu:
        yield untrusted(
            f"the other sites train with proximal_mu {context.proximal_mu:g}, this one is asked "
            f"for {request.proximal_mu:g}"
        )
    own = model_digests(request.arrays)
    for group in sorted({TRUNK, task, *own}):
        if context.models.get(group) != own.get(group):
            yield untrusted(f"the arrays of {group} are not those that the other sites get")


def against_opening(
    opening: RoundOpening,
    *,
    memory: RoundMemory | None,
    own: MemberKey,
    server_round: int,
    config: RunConfig,
    terms: Terms,
) -> Iterator[Denial]:
    """Yield why no update is masked for this round; its members were looked at before."""
    keys = {key.site: key for key in opening.keys}
    if memory is None or keys.get(own.site) != memory.bundle.key:
        yield untrusted(
            f"this site's own key of round {server_round} is missing from the round, or altered"
        )
        return
    if memory.secrets is None or memory.masked is not None:
        yield out_of_order(f"its masks of round {server_round} are used")
        return
    if memory.groups != groups_of_task(config, own.task):
        yield untrusted("the run's groups are not those that secrets were shared out for")
    digest = MemberList(members=opening.members).digest
    tasks = {member.site: member.task for member in opening.members}
    for site, key in keys.items():
        if site not in tasks or key.task != tasks[site]:
            yield untrusted(f"{site} has a key of the round and is no member")
        elif (key.run, key.server_round) != (own.run, server_round):
            yield untrusted(f"the round key of {site} is of another run or round")
        elif key.members_digest != digest:
            yield untrusted(f"{site} shared its secrets out among other members")
        elif site != own.site and not _is_signed(partial(verify_round_key, key, terms.peers[site])):
            yield untrusted(f"the round key of {site} is not signed by the key pinned for it")
    if differing := sorted(set(opening.shares) ^ (set(keys) - {own.site})):
        yield untrusted(f"the letter of {differing[0]} is missing, or it is not in the round")
    if len(keys) < terms.least:
        yield _forbidden(f"{len(keys)} sites are in the round, a sum needs at least {terms.least}")
    elif len(keys) < (needed := threshold(len(config.sites))):
        yield _forbidden(f"{len(keys)} sites are in the round, opening it takes {needed}")


def against_unmasking(
    unmasking: Unmasking,
    *,
    masked: Masked,
    run: str,
    server_round: int,
    site: str,
    keys: Peers,
) -> Iterator[Denial]:
    """Yield why a round is not opened for these survivors. ``keys`` has this site's own as well."""
    if unmasking.roster_digest != masked.roster_digest:
        yield untrusted(f"round {server_round} was masked for other keys than this opens")
        return
    survivors, dropped = set(unmasking.survivors), set(unmasking.dropped)
    if site not in survivors:
        yield _forbidden("this site is not among the survivors: it opens no sum without itself")
    if both := sorted(survivors & dropped):
        yield _forbidden(f"{both[0]} is said to have both survived and dropped out")
    in_round = {key.site for key in masked.keys}
    if differing := sorted((survivors | dropped) ^ in_round):
        yield _forbidden(f"{differing[0]} is not in the round, or nothing is said of it")
    if set(unmasking.signatures) != survivors:
        yield untrusted("not exactly the survivors have signed the round")
        return
    statement = roster_statement(run=run, server_round=server_round, digest=masked.roster_digest)
    for survivor, signature in unmasking.signatures.items():
        if survivor not in keys:
            yield _forbidden(f"survivor {survivor} is not pinned here")
        elif not _is_signed(partial(keys[survivor].verify, ROSTER_PURPOSE, statement, signature)):
            yield untrusted(f"survivor {survivor} has not signed that it masked for this round")
    if len(survivors) < masked.needed:
        yield _forbidden(f"{len(survivors)} sites survived, opening the sums takes {masked.needed}")


def out_of_order(reason: str) -> Denial:
    """Return a denial of what cannot be done a second time, or any more."""
    return Denial(RefusalCode.OUT_OF_ORDER, f"secure sum: {reason}.")


def _is_signed(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except TrustError:
        return False
    return True


def untrusted(reason: str) -> Denial:
    """Return a denial of what is not as the sites themselves have signed it."""
    return Denial(RefusalCode.UNTRUSTED, f"secure sum: {reason.rstrip('.')}.")


def unreadable(reason: str) -> Denial:
    """Return a denial of what does not keep the contract."""
    return Denial(RefusalCode.UNREADABLE, f"secure sum: {reason.rstrip('.')}.")


def _forbidden(reason: str) -> Denial:
    return Denial(RefusalCode.FORBIDDEN, f"secure sum: {reason}.")
