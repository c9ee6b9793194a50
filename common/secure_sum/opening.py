"""Takes the masks off the sums of a round, with what enough of its sites give for that.

Bonawitz et al. 2017, https://doi.org/10.1145/3133956.3133982, round 4. Of a survivor, whose vector
is in the sums, the self-mask is taken off; of a site that dropped out, the masks that the others
share with it. Never both of one site: then its vector would be bare.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import AggregationError, TrustError
from common.messages.kinds import MaskedSums
from common.messages.signing import canonical
from common.model.layers import TRUNK
from common.secure_sum.masks import (
    MaskPlace,
    agreed,
    public_half,
    remove_pair_mask,
    remove_self_mask,
)
from common.secure_sum.shamir import coefficients, combine, without_check
from common.secure_sum.statements import OpenedShares, RoundOpening, roster_digest

MASK_KEY = "mask key"  # kinds of shared secrets
SELF_SEED = "self seed"


def threshold(sites: int) -> int:
    """Return how many sites open a round of a run that has n: ⌈2n / 3⌉.

    Of all sites of the run's configuration, whichever take part in a round: the coordinator picks
    these, and with a short list of members a few sites that collude with it could open a sum.

    A coordinator that could tell some sites that k survived, and others that k dropped out, would
    get both kinds of k's shares and with them its update. For that it needs ``threshold`` sites on
    either side. An honest site answers once a round, so only sites that collude stand on both:
    2 · threshold − n ≥ n / 3 of them. It fails as long as fewer than a third of the sites collude.
    """
    return -(-2 * sites // 3)


def share_context(
    kind: str, *, run: str, server_round: int, site: str, group: str | None = None
) -> str:
    """Return what a shared secret is for, as the check beside it says."""
    return canonical(
        {"kind": kind, "run": run, "round": server_round, "site": site, "group": group}
    )


def share_numbers(opening: RoundOpening) -> dict[str, int]:
    """Return the number of each member's shares: its place in the list of members, from 1."""
    return {member.site: number for number, member in enumerate(opening.members, start=1)}


def open_sums(
    opening: RoundOpening,
    masked: Mapping[str, MaskedSums],
    shares: Mapping[str, OpenedShares],
    *,
    groups: Mapping[str, Sequence[str]],
    sites: int,
    run: str,
    server_round: int,
) -> dict[str, NDArray[np.uint32]]:
    """Return the sum of the survivors' vectors of each group that was opened, modulo 2^32.

    A head for which too few shares came is left out: too few of its sites survived for those who
    keep it closed. The trunk is opened always. The arguments stay as they are.

    Args:
        opening: The round's, as its sites got it; letters are not looked at.
        masked: Of each survivor, by site.
        shares: What each giver answered, by site.
        groups: The sites of each group; those that are not in the round do not count.
        sites: How many the run has, from whose number the threshold follows.
        run: Whose round it is.
        server_round: From 1.

    Raises:
        AggregationError: Too few shares came, they do not fit together, or a survivor's vector is
            missing or of another size; the message names the site.
    """
    known = Opener(opening, shares, sites=sites, run=run, server_round=server_round)
    roster = roster_digest(opening)
    keys = {key.site: key.mask_key for key in opening.keys}
    survivors = sorted(masked)
    if strange := sorted(set(survivors) - set(keys)):
        raise AggregationError(f"{strange[0]} is not in round {server_round}: its vector is void.")
    dropped = sorted(set(keys) - set(survivors))
    private = {site: known.mask_key(site, keys[site]) for site in dropped}
    sums = {}
    for group, named in groups.items():
        added = [site for site in survivors if site in named]
        if group != TRUNK and not known.is_open(group, added):
            continue
        total = _total(group, added, masked)
        place = MaskPlace(run, server_round, group, roster)
        for site in added:
            remove_self_mask(total, known.self_seed(site, group), site=site, place=place)
        for gone in dropped:
            if gone not in named:
                continue
            for site in added:
                agreement = _agreement(private[gone], keys[site], site)
                remove_pair_mask(total, agreement, site=site, peer=gone, place=place)
        sums[group] = total
    return sums


class Opener:
    """Puts the secrets of one round together from shares."""

    def __init__(
        self,
        opening: RoundOpening,
        shares: Mapping[str, OpenedShares],
        *,
        sites: int,
        run: str,
        server_round: int,
    ) -> None:
        """Take what came. Raises AggregationError for a giver that is no member."""
        self._numbers = share_numbers(opening)
        if strange := sorted(set(shares) - set(self._numbers)):
            raise AggregationError(f"{strange[0]} is no member of the round: its shares are void.")
        self._shares, self._run, self._round = shares, run, server_round
        self._needed = threshold(sites)
        self._factors: dict[tuple[int, ...], dict[int, int]] = {}

    def is_open(self, group: str, sites: Sequence[str]) -> bool:
        """Say whether enough givers opened a group to these sites of it."""
        givers = [
            given
            for given in self._shares.values()
            if sites and all(group in given.self_seeds.get(site, {}) for site in sites)
        ]
        return len(givers) >= self._needed

    def self_seed(self, site: str, group: str) -> bytes:
        """Return a survivor's seed. Raises AggregationError."""
        came = {
            giver: given.self_seeds[site][group]
            for giver, given in self._shares.items()
            if group in given.self_seeds.get(site, {})
        }
        return self._secret(SELF_SEED, came, site, group)

    def mask_key(self, site: str, public: str) -> bytes:
        """Return a dropped site's private mask key. Raises AggregationError."""
        came = {
            giver: given.mask_keys[site]
            for giver, given in self._shares.items()
            if site in given.mask_keys
        }
        private = self._secret(MASK_KEY, came, site, None)
        if public_half(private) != public:
            raise AggregationError(
                f"the {MASK_KEY} of {site} is not the one that its round key names: "
                "that site shared out another. Its round cannot be opened."
            )
        return private

    def _secret(self, kind: str, came: Mapping[str, str], site: str, group: str | None) -> bytes:
        what = f"the {kind} of {site}" + (f" for {group}" if group else "")
        if len(came) < self._needed:
            raise AggregationError(
                f"{what} needs the shares of {self._needed} sites, {len(came)} came "
                f"(from {', '.join(sorted(came)) or 'nobody'})."
            )
        numbers = {self._numbers[giver]: int(share, 16) for giver, share in came.items()}
        context = share_context(
            kind, run=self._run, server_round=self._round, site=site, group=group
        )
        first = tuple(sorted(numbers))[: self._needed]
        try:
            return without_check(combine(numbers, self._factors_of(first)), context)
        except AggregationError as error:
            wrong = self._wrong_givers(numbers, lambda number: without_check(number, context))
            blamed = (
                f": {', '.join(wrong)} gave a wrong one" if wrong else "; at least one is wrong"
            )
            givers = ", ".join(sorted(came))
            raise AggregationError(
                f"{what}: the shares of {givers} do not fit together{blamed}. "
                "Ask those sites whether their disks are sound."
            ) from error

    def _factors_of(self, numbers: tuple[int, ...]) -> dict[int, int]:
        if numbers not in self._factors:
            self._factors[numbers] = coefficients(numbers)
        return self._factors[numbers]

    def _wrong_givers(self, numbers: Mapping[int, int], check: Callable[[int], bytes]) -> list[str]:
        """Return who gave a wrong share, as far as shares to spare tell: nobody when unsure."""
        names = {number: site for site, number in self._numbers.items()}
        for chosen in self._without_one(sorted(numbers)):
            try:
                check(combine(numbers, self._factors_of(chosen)))
            except AggregationError:
                continue  # the wrong one is still among them
            others = sorted(set(numbers) - set(chosen))
            values = {x: combine(numbers, coefficients(chosen, at=x)) for x in others}
            return [names[x] for x in others if values[x] != numbers[x]]
        return []

    def _without_one(self, numbers: Sequence[int]) -> Iterator[tuple[int, ...]]:
        for left_out in numbers:
            kept = [number for number in numbers if number != left_out]
            if len(kept) >= self._needed:
                yield tuple(kept[: self._needed])


def _agreement(private: bytes, public: str, site: str) -> bytes:
    try:
        return agreed(private, public)
    except TrustError as error:
        raise AggregationError(f"the mask key of {site}: {error}") from error


def _total(
    group: str, sites: Sequence[str], masked: Mapping[str, MaskedSums]
) -> NDArray[np.uint32]:
    total: NDArray[np.uint32] | None = None
    for site in sites:
        vector = masked[site].get(group)
        if vector is None:
            raise AggregationError(f"{site} sent no vector for group {group}, which it is in.")
        if total is None:
            total = vector.copy()
        elif vector.shape != total.shape or vector.dtype != total.dtype:
            raise AggregationError(
                f"group {group}: the vector of {site} has shape {vector.shape} of {vector.dtype}, "
                f"expected {total.shape} of {total.dtype}."
            )
        else:
            total += vector  # modulo 2^32
    if total is None:
        raise AggregationError(f"group {group}: shares came, but nobody's vector is in it.")
    return total
