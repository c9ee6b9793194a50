"""The secrets of one round at one site: made and shared out, used once, and read from others.

Nothing here touches the disk or decides anything; client/secure/member.py does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from client.secure.memory import Masked, RoundMemory, RoundSecrets
from common.config.run import RunConfig
from common.errors import TrustError
from common.messages.signing import PrivateKey
from common.secure_sum.groups import groups_among, groups_of_task
from common.secure_sum.letters import Letter, LetterPlace, opened, sealed
from common.secure_sum.masks import (
    MaskPlace,
    add_pair_mask,
    add_self_mask,
    agreed,
    as_base64,
    from_base64,
    new_key,
    public_half,
)
from common.secure_sum.opening import MASK_KEY, SELF_SEED, share_context, threshold
from common.secure_sum.shamir import split, with_check
from common.secure_sum.statements import (
    Bundle,
    MemberKey,
    MemberList,
    OpenedShares,
    RoundOpening,
    Unmasking,
    roster_digest,
    signed_member_key,
    signed_round_key,
)


@dataclass(frozen=True, eq=False)
class Member:
    """This site in one run."""

    run: str
    site: str
    task: str
    key: PrivateKey  # for signatures
    letter_key: bytes  # private X25519

    @property
    def statement(self) -> MemberKey:
        """What others know this member by; equal every time."""
        return signed_member_key(
            run=self.run,
            site=self.site,
            task=self.task,
            letter_key=public_half(self.letter_key),
            key=self.key,
        )


def fresh_round(
    me: Member, members: MemberList, *, server_round: int, groups: tuple[str, ...], sites: int
) -> RoundMemory:
    """Return new secrets for a round and these groups, shared out among the members.

    As many must help to open them as ``threshold`` says of all ``sites`` of the run. Raises
    TrustError for a member whose key for letters is of no use.
    """
    mask_key, seeds = new_key(), {group: new_key() for group in groups}
    letters = _letters(me, members, server_round, mask_key, seeds, needed=threshold(sites))
    shares = {
        member.site: sealed(
            letters[member.site],
            agreed(me.letter_key, member.letter_key),
            LetterPlace(
                run=me.run,
                server_round=server_round,
                sender=me.site,
                recipient=member.site,
                members_digest=members.digest,
            ),
        )
        for member in members.members
        if member.site != me.site
    }
    key = signed_round_key(
        run=me.run,
        server_round=server_round,
        site=me.site,
        task=me.task,
        mask_key=public_half(mask_key),
        members_digest=members.digest,
        shares=shares,
        key=me.key,
    )
    return RoundMemory(
        server_round=server_round,
        bundle=Bundle(key=key, shares=shares),
        own=letters[me.site],
        groups=groups,
        secrets=RoundSecrets(
            mask_key=as_base64(mask_key),
            self_seeds={group: as_base64(seed) for group, seed in seeds.items()},
        ),
        masked=None,
        opened=None,
    )


def letters_to(
    me: Member, opening: RoundOpening, *, server_round: int, config: RunConfig
) -> dict[str, Letter]:
    """Return the letters of the other sites of a round, by site.

    Raises TrustError naming the site whose letter cannot be opened, or holds other shares than its
    groups need.
    """
    members = {member.site: member for member in opening.members}
    digest = MemberList(members=opening.members).digest
    letters = {}
    for site, text in opening.shares.items():
        place = LetterPlace(
            run=me.run,
            server_round=server_round,
            sender=site,
            recipient=me.site,
            members_digest=digest,
        )
        letter = opened(text, agreed(me.letter_key, members[site].letter_key), place)
        expected = groups_of_task(config, members[site].task)
        if set(letter.self_seeds) != set(expected):
            raise TrustError(f"the letter of {site} has not the shares of {', '.join(expected)}.")
        letters[site] = letter
    return letters


def mask(
    vectors: Mapping[str, NDArray[np.uint32]],
    secrets: RoundSecrets,
    opening: RoundOpening,
    *,
    me: Member,
    server_round: int,
    config: RunConfig,
) -> dict[str, NDArray[np.uint32]]:
    """Return a site's vectors of the groups that this round has, masked; they change in place.

    Raises TrustError for a site whose key for masks is of no use.
    """
    keys = {key.site: key.mask_key for key in opening.keys if key.site != me.site}
    private, roster = from_base64(secrets.mask_key), roster_digest(opening)
    agreements = {site: agreed(private, public) for site, public in keys.items()}
    masked = {}
    for group, sites in groups_among(config, {*keys, me.site}).items():
        if me.site not in sites:
            continue
        vector, place = vectors[group], MaskPlace(me.run, server_round, group, roster)
        for peer in sites:
            if peer != me.site:
                add_pair_mask(vector, agreements[peer], site=me.site, peer=peer, place=place)
        seed = from_base64(secrets.self_seeds[group])
        add_self_mask(vector, seed, site=me.site, place=place)
        masked[group] = vector
    return masked


def shares_given(masked: Masked, unmasking: Unmasking) -> OpenedShares:
    """Return the shares that lie here of a round's sites: one kind of each, of what is opened.

    Of a group in which fewer are left than this site demands of a sum it gives none.
    """
    present = set(unmasking.survivors)
    left = {group: present.intersection(sites) for group, sites in masked.groups.items()}
    opened_groups = {group for group, sites in left.items() if len(sites) >= masked.least}
    return OpenedShares(
        self_seeds={
            site: {
                group: masked.letters[site].self_seeds[group]
                for group in sorted(opened_groups)
                if site in left[group]
            }
            for site in unmasking.survivors
        },
        mask_keys={site: masked.letters[site].mask_key for site in unmasking.dropped},
    )


def _letters(
    me: Member,
    members: MemberList,
    server_round: int,
    mask_key: bytes,
    seeds: Mapping[str, bytes],
    *,
    needed: int,
) -> dict[str, Letter]:
    """Return each member's shares of this site's secrets, this site's own among them."""
    sites = [member.site for member in members.members]

    def shared(secret: bytes, kind: str, group: str | None) -> dict[str, str]:
        context = share_context(
            kind, run=me.run, server_round=server_round, site=me.site, group=group
        )
        parts = split(with_check(secret, context), threshold=needed, shares=len(sites))
        # In the order of the members: opening.share_numbers.
        return {site: f"{part:x}" for site, part in zip(sites, parts, strict=True)}

    of_key = shared(mask_key, MASK_KEY, None)
    of_seeds = {group: shared(seed, SELF_SEED, group) for group, seed in seeds.items()}
    return {
        site: Letter(
            mask_key=of_key[site],
            self_seeds={group: parts[site] for group, parts in of_seeds.items()},
        )
        for site in sites
    }
