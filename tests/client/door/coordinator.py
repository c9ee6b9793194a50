"""A coordinator's part in a secure sum, played by hand: passes keys on, masks are the sites'."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from client.desk.desk import Desk
from common.config.reading import canonical_json
from common.messages.kinds import (
    NOT_SECURE,
    Answer,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Request,
    Shares,
    TrainRequest,
    UnmaskRequest,
)
from common.messages.manifest import SignedManifest
from common.secure_sum.context import round_context
from common.secure_sum.groups import groups_of
from common.secure_sum.opening import open_sums
from common.secure_sum.statements import (
    Bundle,
    MaskedNote,
    MemberKey,
    MemberList,
    OpenedShares,
    RoundOpening,
    Unmasking,
    as_text,
    parsed,
)
from hospital import Hospital


@dataclass
class Coordinator:
    """Knows what all hospitals of a trial have sent."""

    hospitals: Mapping[str, Hospital]
    desks: Mapping[str, Desk]
    manifest: SignedManifest
    members: MemberList = field(default_factory=lambda: MemberList(members=()))
    bundles: dict[str, Bundle] = field(default_factory=dict)  # of the round to come
    openings: dict[str, RoundOpening] = field(default_factory=dict)  # by site, of the last round

    @property
    def any_hospital(self) -> Hospital:
        return next(iter(self.hospitals.values()))

    @property
    def config_json(self) -> str:
        return canonical_json(self.any_hospital.config)

    def ask(self, site: str, request: Request) -> Answer:
        return self.hospitals[site].asked(self.desks[site], request, self.manifest)

    def keys_request(self, server_round: int) -> KeysRequest:
        keys_json = as_text(self.members) if server_round else NOT_SECURE
        return KeysRequest("run-1", server_round, self.config_json, keys_json)

    def gather_keys(self) -> None:
        """Ask for the keys of the run, and then for those of round 1."""
        told = {site: self.ask(site, self.keys_request(0)) for site in self.hospitals}
        assert all(isinstance(answer, Keys) for answer in told.values()), told
        members = (parsed(told[site].keys_json, MemberKey) for site in sorted(told))  # type: ignore[union-attr]
        self.members = MemberList(members=tuple(members))
        for site in self.hospitals:
            answer = self.ask(site, self.keys_request(1))
            assert isinstance(answer, Keys), answer
            self.bundles[site] = parsed(answer.keys_json, Bundle)

    def train_request(self, site: str, server_round: int) -> TrainRequest:
        """Return a round's request, and remember how it was opened."""
        hospital = self.hospitals[site]
        opening = RoundOpening(
            context=round_context(
                hospital.arrays,
                run_digest=self.manifest.digest,
                server_round=server_round,
                evaluates=True,
                proximal_mu=0.0,
            ),
            members=self.members.members,
            keys=tuple(self.bundles[name].key for name in sorted(self.bundles)),
            shares={
                other: bundle.shares[site]
                for other, bundle in self.bundles.items()
                if other != site
            },
        )
        self.openings[site] = opening
        return hospital.train_request(server_round, evaluates=True, secure_json=as_text(opening))

    def unmasking(self, masked: Mapping[str, MaskedUpdate]) -> Unmasking:
        notes = {site: parsed(answer.secure_json, MaskedNote) for site, answer in masked.items()}
        survivors = tuple(sorted(masked))
        return Unmasking(
            roster_digest=next(iter(notes.values())).roster_digest,
            survivors=survivors,
            dropped=tuple(sorted(set(self.bundles) - set(survivors))),
            signatures={site: note.signature for site, note in notes.items()},
        )

    def unmask_request(self, masked: Mapping[str, MaskedUpdate]) -> UnmaskRequest:
        server_round = next(iter(masked.values())).server_round
        text = as_text(self.unmasking(masked))
        return UnmaskRequest("run-1", server_round, self.config_json, text)

    def opened(
        self, masked: Mapping[str, MaskedUpdate], shares: Mapping[str, Shares]
    ) -> dict[str, np.ndarray]:
        return open_sums(
            next(iter(self.openings.values())),
            {site: answer.masked for site, answer in masked.items()},
            {site: parsed(answer.shares_json, OpenedShares) for site, answer in shares.items()},
            groups=groups_of(self.any_hospital.config),
            sites=len(self.any_hospital.config.sites),
            run="run-1",
            server_round=next(iter(masked.values())).server_round,
        )
