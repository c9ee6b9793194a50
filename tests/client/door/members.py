"""Sites that add up under masks, in one process: three tasks of three, and arrays small enough."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from client.secure.checks import Terms
from client.secure.member import SecureMember
from common.config.reading import canonical_json, load_config
from common.config.run import RunConfig
from common.messages.digests import text_digest
from common.messages.kinds import (
    NOT_SECURE,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Refusal,
    Shares,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.signing import PrivateKey, PublicKey
from common.secure_sum.context import round_context
from common.secure_sum.groups import groups_of
from common.secure_sum.layout import GroupSum, layouts
from common.secure_sum.measures import LOSS_PARTS, metric_names
from common.secure_sum.opening import open_sums
from common.secure_sum.statements import (
    Bundle,
    MaskedNote,
    MemberKey,
    MemberList,
    OpenedShares,
    RoundContext,
    RoundOpening,
    Unmasking,
    as_text,
    parsed,
    roster_digest,
)

CONFIGS = Path(__file__).parents[3] / "configs"
RUN = "trial-1"
TASKS = {
    "amber": "chestx",
    "birch": "retina",
    "cedar": "pathoscan",
    "delta": "chestx",
    "ember": "retina",
    "fjord": "pathoscan",
    "grove": "chestx",
    "heath": "retina",
    "inlet": "pathoscan",
}
SHAPES = {
    "trunk.stem": (40, 5),
    "trunk.bias": (7,),
    **{f"heads.{task}.w": (11,) for task in ("chestx", "retina", "pathoscan")},
}


def config_of(
    tasks: Mapping[str, str] = TASKS, *, aggregation: str = "weighted-mean", rounds: int = 4
) -> RunConfig:
    values = load_config(CONFIGS / "experiments" / "demo.yaml").run.model_dump()
    values["sites"] = [
        {"name": name, "task": task, "source": {"kind": "pool", "pool": "p", "share": 1.0}}
        for name, task in tasks.items()
    ]
    values["federation"] |= {"aggregation": aggregation, "rounds": rounds, "required_sites": ()}
    values["federation"]["site_floor"] = {"auroc": 0.6}
    values["secure_aggregation"] |= {"enabled": True, "clip_norm": 3.0, "max_examples": 500}
    return RunConfig.model_validate(values)


class Federation:
    """The coordinator's part by hand, so that a test can play it false."""

    def __init__(self, folder: Path, config: RunConfig | None = None) -> None:
        self.folder = folder
        self.config = config or config_of()
        self.tasks = {site.name: site.task for site in self.config.sites}
        self.config_json = canonical_json(self.config)
        self.least: dict[str, int] = {}  # sites in a sum, of sites that ask for more than the run
        self.signing = {site: PrivateKey.new() for site in self.tasks}
        self.members = {site: self.restarted(site) for site in self.tasks}
        self.arrays = {
            task: {
                name: np.zeros(shape, np.float32)
                for name, shape in SHAPES.items()
                if name.startswith(("trunk.", f"heads.{task}."))
            }
            for task in set(self.tasks.values())
        }

    def restarted(self, site: str) -> SecureMember:
        return SecureMember(
            self.folder / site, site=site, task=self.tasks[site], key=self.signing[site]
        )

    def terms(self, site: str, *, least: int | None = None) -> Terms:
        return Terms(
            peers=self.peers(site),
            least=least or self.least.get(site, self.config.secure_aggregation.min_group),
            run_digest=text_digest(self.config_json),
        )

    def context(self, server_round: int = 1) -> RoundContext:
        model = {name: array for arrays in self.arrays.values() for name, array in arrays.items()}
        return round_context(
            model,
            run_digest=text_digest(self.config_json),
            server_round=server_round,
            evaluates=True,
            proximal_mu=0.0,
        )

    def peers(self, site: str) -> dict[str, PublicKey]:
        return {other: key.public for other, key in self.signing.items() if other != site}

    # --- what is asked ---------------------------------------------------------------------

    def member_key(self, site: str, run: str = RUN) -> MemberKey:
        request = KeysRequest(run, 0, self.config_json, NOT_SECURE)
        answer = self.members[site].keys(request, terms=self.terms(site))
        assert isinstance(answer, Keys), answer
        return parsed(answer.keys_json, MemberKey)

    def member_list(self, sites: Collection[str] | None = None, run: str = RUN) -> MemberList:
        chosen = sorted(self.tasks if sites is None else sites)
        return MemberList(members=tuple(self.member_key(site, run) for site in chosen))

    def ask_bundle(
        self, site: str, server_round: int, members: MemberList, *, run: str = RUN
    ) -> Bundle | Refusal:
        request = KeysRequest(run, server_round, self.config_json, as_text(members))
        answer = self.members[site].keys(request, terms=self.terms(site))
        return answer if isinstance(answer, Refusal) else parsed(answer.keys_json, Bundle)

    def bundles(
        self, members: MemberList, *, server_round: int = 1, without: Collection[str] = ()
    ) -> dict[str, Bundle]:
        found = {}
        for member in members.members:
            if member.site not in without:
                bundle = self.ask_bundle(member.site, server_round, members)
                assert isinstance(bundle, Bundle), bundle
                found[member.site] = bundle
        return found

    def opening(
        self, site: str, members: MemberList, bundles: Mapping[str, Bundle]
    ) -> RoundOpening:
        (server_round,) = {bundle.key.server_round for bundle in bundles.values()}
        return RoundOpening(
            context=self.context(server_round),
            members=members.members,
            keys=tuple(bundles[other].key for other in sorted(bundles)),
            shares={other: b.shares[site] for other, b in sorted(bundles.items()) if other != site},
        )

    def request(
        self, site: str, opening: RoundOpening, *, server_round: int = 1, run: str = RUN
    ) -> TrainRequest:
        return TrainRequest(
            run=run,
            server_round=server_round,
            global_step=0,
            total_steps=1,
            proximal_mu=0.0,
            evaluates=True,
            config_json=self.config_json,
            arrays=self.arrays[self.tasks[site]],
            secure_json=as_text(opening),
        )

    def update(self, site: str, *, server_round: int = 1, seed: int = 0) -> Update:
        rng = np.random.default_rng([seed, sorted(self.tasks).index(site), server_round])
        task = self.tasks[site]
        length = rng.choice([0.02, 0.5])  # of some sites, longer than clip_norm
        return Update(
            run=RUN,
            server_round=server_round,
            site=site,
            task=task,
            num_examples=int(rng.integers(20, 900)),
            num_steps=3,
            metrics={part: float(rng.uniform(0, 3)) for part in LOSS_PARTS} | {"seconds": 1.0},
            evaluation={
                name: float(rng.uniform(0.3, 0.9))
                for name in metric_names(self.config, task)
                if rng.uniform() < 0.8
            },
            arrays={
                name: rng.normal(0, length, array.shape).astype(np.float32)
                for name, array in self.arrays[task].items()
            },
        )

    def mask(
        self, site: str, opening: RoundOpening, *, server_round: int = 1
    ) -> MaskedUpdate | Refusal:
        return self.members[site].masked(
            self.request(site, opening, server_round=server_round),
            self.update(site, server_round=server_round),
            terms=self.terms(site),
        )

    # --- a round ---------------------------------------------------------------------------

    def masked_by(
        self,
        members: MemberList,
        bundles: Mapping[str, Bundle],
        *,
        server_round: int = 1,
        without: Collection[str] = (),
    ) -> dict[str, MaskedUpdate]:
        found = {}
        for site in sorted(set(bundles) - set(without)):
            answer = self.mask(
                site, self.opening(site, members, bundles), server_round=server_round
            )
            assert isinstance(answer, MaskedUpdate), answer
            found[site] = answer
        return found

    def unmasking(self, opening: RoundOpening, masked: Mapping[str, MaskedUpdate]) -> Unmasking:
        notes = {site: parsed(a.secure_json, MaskedNote) for site, a in masked.items()}
        return Unmasking(
            roster_digest=roster_digest(opening),
            survivors=tuple(sorted(masked)),
            dropped=tuple(sorted({key.site for key in opening.keys} - set(masked))),
            signatures={site: notes[site].signature for site in sorted(notes)},
        )

    def ask_shares(
        self, site: str, unmasking: Unmasking, *, server_round: int = 1, run: str = RUN
    ) -> OpenedShares | Refusal:
        request = UnmaskRequest(run, server_round, self.config_json, as_text(unmasking))
        answer = self.members[site].shares(request, terms=self.terms(site))
        if isinstance(answer, Refusal):
            return answer
        assert isinstance(answer, Shares)
        return parsed(answer.shares_json, OpenedShares)

    def opened(
        self,
        opening: RoundOpening,
        masked: Mapping[str, MaskedUpdate],
        *,
        server_round: int = 1,
        silent: Collection[str] = (),
    ) -> dict[str, GroupSum]:
        unmasking = self.unmasking(opening, masked)
        shares = {}
        for site in sorted(set(masked) - set(silent)):
            given = self.ask_shares(site, unmasking, server_round=server_round)
            assert isinstance(given, OpenedShares), given
            shares[site] = given
        sums = open_sums(
            opening,
            {site: answer.masked for site, answer in masked.items()},
            shares,
            groups=groups_of(self.config),
            sites=len(self.tasks),
            run=RUN,
            server_round=server_round,
        )
        return self.decoded(sums)

    def decoded(self, sums: Mapping[str, np.ndarray]) -> dict[str, GroupSum]:
        placed = {}
        for task in self.arrays:
            placed |= layouts(self.config, SHAPES, task=task)
        return {group: placed[group].decode(vector) for group, vector in sums.items()}
