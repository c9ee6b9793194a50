"""What sites say to each other through the coordinator, signed, so that it cannot speak for them.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
https://doi.org/10.1145/3133956.3133982, with the keys of a round and their shares made ahead:

1. once per run every site makes a key pair for letters to other sites: :class:`MemberKey`;
2. ahead of a round, given the :class:`MemberList`, every site makes a key pair for masks and seeds
   for self-masks, all of that round alone, and shares them out: :class:`Bundle`;
3. the heavy exchange: a training request brings the :class:`RoundOpening`, with it the
   :class:`RoundContext` that is the same for all, and the masked update goes back with a
   :class:`MaskedNote`, which already holds the bundle of the next round;
4. the light exchange: the :class:`Unmasking` names who is in the sums and who dropped out, and of
   every site one kind of share comes back: :class:`OpenedShares`.

Every text of bytes is base64. Sites are listed in the order of their names, each once.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError, model_validator

from common.config.run import Section
from common.errors import WireError
from common.messages.digests import text_digest
from common.messages.manifest import Digest, RunName, Slug
from common.messages.signing import PrivateKey, PublicKey, canonical

MEMBER_PURPOSE = "fovea secure sum member v1"
ROUND_PURPOSE = "fovea secure sum round v1"
ROSTER_PURPOSE = "fovea secure sum roster v1"

Round = Annotated[int, Field(ge=1)]
Key32 = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")]  # 32 bytes
Sealed = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]+={0,2}$", max_length=4096)]
Signature = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]  # 64 bytes
Share = Annotated[str, Field(pattern=r"^[0-9a-f]{1,132}$")]  # a number below 2^521 - 1, hexadecimal


class MemberKey(Section):
    """A site's public key for letters from other sites, for one run."""

    run: RunName
    site: Slug
    task: Slug
    letter_key: Key32  # X25519
    signature: Signature  # MEMBER_PURPOSE, by the site's signing key, over all of the above

    @property
    def statement(self) -> dict[str, str]:
        """What is signed."""
        return self.model_dump(exclude={"signature"})


class MemberList(Section):
    """Who takes part, as every site of a round must see it."""

    members: tuple[MemberKey, ...]

    @model_validator(mode="after")
    def _in_order(self) -> "MemberList":
        _check_order([member.site for member in self.members])
        return self

    @property
    def digest(self) -> str:
        """What a round's keys are made for."""
        return text_digest(canonical(self.model_dump(mode="json")))


class RoundKey(Section):
    """A site's public key for the masks of one round."""

    run: RunName
    server_round: Round
    site: Slug
    task: Slug
    mask_key: Key32  # X25519, of this round alone
    members_digest: Digest  # of the member list for which the secrets were shared out
    shares_digest: Digest  # of the sealed shares, see :func:`shares_digest`
    signature: Signature  # ROUND_PURPOSE, by the site's signing key, over all of the above

    @property
    def statement(self) -> dict[str, str | int]:
        """What is signed."""
        return self.model_dump(exclude={"signature"})


class Bundle(Section):
    """A site's part in a round to come."""

    key: RoundKey
    shares: Mapping[Slug, Sealed]  # for each other member, a letter that only it can open


class RoundContext(Section):
    """What all sites of a sum are asked alike.

    Without it a coordinator could ask all sites but one for updates of nothing, by a model that is
    dead or another manifest, and the sum would be the update of the one. Every site compares it
    with its own request, and masks under its digest.

    A site cannot look at the heads of other tasks, which it is not sent: a coordinator may still
    send the sites of another task a crafted head, and weaken their part of the trunk's sum. Then
    the trunk's sum is that of the sites of fewer tasks, never of fewer than one task's sites.
    """

    run_digest: Digest  # of the manifest; of the configuration's JSON where there is no manifest
    server_round: Round
    evaluates: bool  # whether the sites measure the model before they train
    proximal_mu: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    models: Mapping[Slug, Digest]  # group → of its arrays in the round's model


class RoundOpening(Section):
    """What a site needs to mask its update."""

    context: RoundContext
    members: tuple[MemberKey, ...]
    keys: tuple[RoundKey, ...]  # of the sites whose bundles came: they make up the round
    shares: Mapping[Slug, Sealed]  # the letters to this site, from each other site of the round

    @model_validator(mode="after")
    def _in_order(self) -> "RoundOpening":
        _check_order([member.site for member in self.members])
        _check_order([key.site for key in self.keys])
        return self


class MaskedNote(Section):
    """What goes with a masked update."""

    roster_digest: Digest
    signature: Signature  # ROSTER_PURPOSE, see :func:`roster_statement`
    next: Bundle | None  # of the next round, for the same members; None in the last one
    # Of all runs on the site's training part, this round's included; None: no noise was added.
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class Unmasking(Section):
    """Who is in the sums of a round, and who is not although others reckoned with it."""

    roster_digest: Digest
    survivors: tuple[Slug, ...]
    dropped: tuple[Slug, ...]
    signatures: Mapping[Slug, Signature]  # of each survivor, from its note

    @model_validator(mode="after")
    def _in_order(self) -> "Unmasking":
        _check_order(self.survivors)
        _check_order(self.dropped)
        return self


class OpenedShares(Section):
    """One kind of share for each site of the round, the giver included."""

    self_seeds: Mapping[Slug, Mapping[Slug, Share]]  # survivor → group → share of its seed
    mask_keys: Mapping[Slug, Share]  # dropped site → share of its round's private mask key


StatementT = TypeVar(
    "StatementT",
    MemberKey,
    MemberList,
    Bundle,
    RoundOpening,
    MaskedNote,
    Unmasking,
    OpenedShares,
)


def parsed(text: str, kind: type[StatementT]) -> StatementT:
    """Return the statement that a message's JSON holds. Raises WireError naming what is wrong."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise WireError(f"{kind.__name__}: {key}: {first['msg']}.") from error


def as_text(statement: Section) -> str:
    """Return a statement in its one form."""
    return canonical(statement.model_dump(mode="json"))


def shares_digest(shares: Mapping[str, str]) -> str:
    """Return what a round key says of the letters that were made with it."""
    return text_digest(canonical(dict(shares)))


def roster_digest(opening: RoundOpening) -> str:
    """Return the digest of context, members and keys of a round: equal at every honest site."""
    content = opening.model_dump(mode="json", include={"context", "members", "keys"})
    return text_digest(canonical(content))


def roster_statement(*, run: str, server_round: int, digest: str) -> dict[str, str | int]:
    """Return what every site of a round signs when it masks."""
    return {"run": run, "round": server_round, "roster": digest}


def signed_member_key(
    *, run: str, site: str, task: str, letter_key: str, key: PrivateKey
) -> MemberKey:
    """Return a member key, signed."""
    statement = {"run": run, "site": site, "task": task, "letter_key": letter_key}
    return MemberKey(**statement, signature=key.sign(MEMBER_PURPOSE, statement))


def signed_round_key(
    *,
    run: str,
    server_round: int,
    site: str,
    task: str,
    mask_key: str,
    members_digest: str,
    shares: Mapping[str, str],
    key: PrivateKey,
) -> RoundKey:
    """Return a round key for the letters that were made with it, signed."""
    statement: dict[str, str | int] = {
        "run": run,
        "server_round": server_round,
        "site": site,
        "task": task,
        "mask_key": mask_key,
        "members_digest": members_digest,
        "shares_digest": shares_digest(shares),
    }
    signature = key.sign(ROUND_PURPOSE, statement)
    return RoundKey.model_validate({**statement, "signature": signature})


def verify_member_key(member: MemberKey, key: PublicKey) -> None:
    """Raise TrustError when the site of this key has not signed it."""
    key.verify(MEMBER_PURPOSE, member.statement, member.signature)


def verify_round_key(round_key: RoundKey, key: PublicKey) -> None:
    """Raise TrustError when the site of this key has not signed it."""
    key.verify(ROUND_PURPOSE, round_key.statement, round_key.signature)


def _check_order(sites: tuple[str, ...] | list[str]) -> None:
    if list(sites) != sorted(set(sites)):
        raise ValueError("sites must be listed by name, each once")
