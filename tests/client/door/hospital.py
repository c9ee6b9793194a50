"""A hospital with real keys, and the coordinator whose run key it has pinned, for tests."""

import json
import threading
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import yaml

from client.consent.approvals import Approvals
from client.desk.desk import Desk
from client.home.folders import SiteHome
from client.home.site import SiteSettings
from client.trust.peers import write_pins
from common.config.reading import canonical_json
from common.config.run import RunConfig
from common.messages.code_digest import site_code_digest
from common.messages.envelope import decode_signed_answer, encode_signed_request, sign_request
from common.messages.kinds import (
    NOT_SECURE,
    Answer,
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    QueryRequest,
    Refusal,
    Request,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.manifest import Manifest, ManifestSite, SignedManifest, sign_manifest
from common.messages.record_bytes import from_bytes, to_bytes
from common.messages.signing import PrivateKey

POLICY = Path(__file__).parents[3] / "configs" / "policies" / "strict.yaml"
START = datetime(2026, 1, 1, 12, tzinfo=UTC)
ANSWERS: dict[type[Request], type[Answer]] = {
    QueryRequest: SiteCard,
    TrainRequest: Update,
    EvaluateRequest: Evaluation,
    KeysRequest: Keys,
    UnmaskRequest: Shares,
}
ARCHITECTURE = "a" * 64  # of the network that the trainer builds
SMALL = {"min_sites": 1, "min_training_patients": 4, "min_validation_patients": 2}


@dataclass
class CountingTrainer:
    """Trains in no time: what the desk does around it is what is tested."""

    card: SiteCard
    trained: list[TrainRequest] = field(default_factory=list)
    evaluated: list[EvaluateRequest] = field(default_factory=list)
    failure: BaseException | None = None
    may_go_on: threading.Event = field(default_factory=threading.Event)
    has_begun: threading.Event = field(default_factory=threading.Event)
    reopened: int = 0

    def __post_init__(self) -> None:
        self.may_go_on.set()

    def describe(self) -> SiteCard:
        return self.card

    def reopen(self) -> None:
        self.reopened += 1

    def architecture_digest(self, config_json: str) -> str:
        del config_json
        return ARCHITECTURE

    def train(self, request: TrainRequest) -> Update | Refusal:
        self.trained.append(request)
        self.has_begun.set()
        self.may_go_on.wait(timeout=20)
        if self.failure is not None:
            raise self.failure
        change = {name: np.full_like(array, 0.5) for name, array in request.arrays.items()}
        return Update(
            run=request.run,
            server_round=request.server_round,
            site=self.card.site,
            task=self.card.task,
            num_examples=self.card.num_examples,
            num_steps=3,
            metrics={"total": 0.25},
            evaluation={"auroc": 0.75} if request.evaluates else {},
            arrays=change,
        )

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        self.evaluated.append(request)
        return Evaluation(
            run=request.run,
            server_round=request.server_round,
            site=self.card.site,
            task=self.card.task,
            num_examples=self.card.num_val,
            metrics={"auroc": 0.75},
        )


@dataclass
class Hospital:
    """A site's home on disk, and the other end of the line."""

    home: SiteHome
    settings: SiteSettings
    key: PrivateKey
    run_key: PrivateKey
    config: RunConfig
    arrays: dict[str, np.ndarray]
    now: datetime = START
    architecture: str = ARCHITECTURE
    sites: tuple[ManifestSite, ...] = ()  # of the run; none: this one alone

    @property
    def entry(self) -> ManifestSite:
        return ManifestSite(
            name=self.settings.name,
            task=self.settings.task,
            signing_key=self.key.public.text,
        )

    def manifest(self, **changes: object) -> SignedManifest:
        content: dict[str, object] = {
            "version": 1,
            "federation": self.settings.federation,
            "run": "run-1",
            "sites": self.sites or (self.entry,),
            "config": self.config,
            "architecture_digest": self.architecture,
            "code_digest": site_code_digest(),
            "issued_at": self.now,
            "expires_at": self.now + timedelta(days=7),
        }
        return sign_manifest(Manifest(**(content | changes)), self.run_key)  # type: ignore[arg-type]

    def approved(self, **changes: object) -> SignedManifest:
        signed = self.manifest(**changes)
        approvals = Approvals(self.home.approvals)
        approvals.keep_waiting(signed, self.now)
        approvals.approve(signed.digest, self.now, by="a test")
        return signed

    def train_request(self, server_round: int = 1, **changes: object) -> TrainRequest:
        request = TrainRequest(
            run="run-1",
            server_round=server_round,
            global_step=0,
            total_steps=20,
            proximal_mu=0.0,
            evaluates=True,
            config_json=canonical_json(self.config),
            arrays=self.arrays,
        )
        return replace(request, **changes)  # type: ignore[arg-type]

    def evaluate_request(self, server_round: int) -> EvaluateRequest:
        return EvaluateRequest("run-1", server_round, canonical_json(self.config), self.arrays)

    def sealed(
        self,
        request: Request,
        manifest: SignedManifest,
        *,
        site: str | None = None,
        key: PrivateKey | None = None,
    ) -> bytes:
        signed = sign_request(
            request,
            site=site or self.settings.name,
            manifest=manifest,
            key=key or self.run_key,
        )
        return to_bytes(encode_signed_request(signed))

    def opened(self, content: bytes | None, request: Request) -> Answer:
        """What a coordinator reads; raises when the site's signature does not fit."""
        assert content is not None
        kind = ANSWERS[type(request)]
        if isinstance(request, TrainRequest) and request.secure_json != NOT_SECURE:
            kind = MaskedUpdate
        return decode_signed_answer(
            from_bytes(content),
            kind,  # type: ignore[type-var]
            request=request,
            site_key=self.key.public,
        )

    def asked(self, desk: Desk, request: Request, manifest: SignedManifest) -> Answer:
        """Ask as the coordinator does, and read the answer."""
        content = desk.answer(self.sealed(request, manifest), is_wanted=lambda: True)
        return self.opened(content, request)

    def desk(self, trainer: object) -> Desk:
        return Desk(self.home, self.settings, trainer, lambda: self.now)  # type: ignore[arg-type]

    def set_policy(self, **changes: object) -> None:
        # The loader in C: every hospital of every test begins here, and PyYAML's own takes 30 ms.
        policy = yaml.load(POLICY.read_text(), Loader=yaml.CSafeLoader)
        policy["bounds"] |= SMALL
        for key, value in changes.items():
            section, _, name = key.partition("__")
            if name:
                policy[section][name] = value
            else:
                policy[section] = value
        self.home.policy_file.write_text(yaml.dump(policy, Dumper=yaml.CSafeDumper))

    def records(self) -> list[dict[str, object]]:
        if not self.home.audit_log.exists():
            return []
        return [json.loads(line) for line in self.home.audit_log.read_text().splitlines()]

    def events(self) -> list[object]:
        return [record["event"] for record in self.records()]


def make_trial(root: Path, *, config: RunConfig, names: tuple[str, ...]) -> dict[str, Hospital]:
    """Hospitals of one run that have pinned each other's keys; all have the task of north."""
    north = next(site for site in config.sites if site.name == "north")
    sites = tuple(north.model_copy(update={"name": name}) for name in names)
    run_key = PrivateKey.new()
    made = {
        name: make_hospital(
            root / name,
            config=config.model_copy(update={"sites": sites}),
            name=name,
            run_key=run_key,
        )
        for name in names
    }
    entries = tuple(hospital.entry for hospital in made.values())
    for name, hospital in made.items():
        hospital.sites = entries
        others = {other: h.key.public.fingerprint for other, h in made.items() if other != name}
        write_pins(hospital.home.peers, others)
    return made


def make_hospital(
    root: Path,
    *,
    config: RunConfig,
    name: str = "north",
    run_key: PrivateKey | None = None,
    **limits: object,
) -> Hospital:
    home = SiteHome(root)
    home.trainer.mkdir(mode=0o700, parents=True)
    home.run.mkdir(mode=0o750)
    settings = {
        "name": name,
        "federation": "trial",
        "task": "chestx",
        "labels": None,
        "data": None,
        "source": next(site.source for site in config.sites if site.name == name).model_dump(),
        "preparation": {
            "image_size_px": config.data.image_size_px,
            "seed": 7,
            "split": config.data.split.model_dump(),
            "preprocess": config.data.preprocess["chestx"].model_dump(),
            "duplicates": config.data.duplicates.model_dump(),
        },
        "machine": {"device": "cpu", "processes": 1, "num_threads": 1},
        "limits": {"request_mb": 64, "request_s": 60.0, "min_free_disk_mb": 1} | limits,
    }
    site = SiteSettings.model_validate(settings)
    home.site_file.write_text(yaml.dump(site.model_dump(mode="json"), Dumper=yaml.CSafeDumper))
    key, run_key = PrivateKey.new(), run_key or PrivateKey.new()
    key.write(home.signing_key)
    home.run_keys.write_text(f"# the trial's\n{run_key.public.text}  # pinned\n")
    arrays = {
        "trunk.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "heads.chestx.bias": np.zeros(4, dtype=np.float32),
    }
    made = Hospital(home, site, key, run_key, config, arrays)
    made.set_policy()
    return made


def wait_until(is_so: object, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end, f"did not come within {seconds} s"
        time.sleep(0.05)
