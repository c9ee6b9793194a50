"""A site of a simulated federation: trains, keeps its ledger, and adds to sums under masks.

The same steps in the same order as at a hospital's desk, without what a hospital decides: no
policy, no approval, no audit log, and keys that last for one simulation. Engines let one process
serve several sites and one site be served by several processes, so nothing is remembered here:
what must last lies in the site's folder.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from client.desk.outgoing import at_precision
from client.desk.without_noise import (
    DATA_CARD,
    EVALUATION,
    card_digest,
    coarse,
    epsilons_of,
    note_without_noise,
    with_epsilon,
)
from client.records.ledger import Ledger
from client.records.spending import round_spending
from client.secure.checks import Terms
from client.secure.member import SecureMember
from client.training.site_trainer import SiteTrainer
from client.training.state import count_layers
from client.trust.request_config import config_in
from common.config.run import RunConfig
from common.errors import ConfigError, LedgerError
from common.local_site import LocalSite
from common.messages.digests import message_digest, text_digest
from common.messages.kinds import (
    NOT_SECURE,
    EvaluateRequest,
    Evaluation,
    Keys,
    KeysRequest,
    MaskedUpdate,
    Metrics,
    Refusal,
    RefusalCode,
    Shares,
    SiteCard,
    TrainRequest,
    UnmaskRequest,
    Update,
)
from common.messages.signing import PublicKey, public_key, read_private_key

LEDGER_FILE = "ledger.jsonl"  # in the site's folder, kept from run to run as its pictures are
SECURE_FOLDER = "secure"

_NO_RUN = "simulation"  # of a data card: a simulated site is asked for it in no run's name


class SimulatedSite:
    """What answers for one site of this machine."""

    def __init__(
        self,
        site: LocalSite,
        trainer: SiteTrainer,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take the site's own settings and what trains for it."""
        self._site, self._trainer, self._now = site, trainer, now
        self._folder = site.state / site.name
        self._ledger = Ledger(self._folder / LEDGER_FILE)

    def describe(self) -> SiteCard:
        """Return who this is and how much it holds; noted, as all that leaves without noise."""
        card = self._trainer.describe()
        with self._ledger_at_hand():
            self._ledger.note_release(
                DATA_CARD,
                run=_NO_RUN,
                server_round=0,
                request_digest="",
                content_digest=card_digest(card),
                now=self._now(),
            )
        return card

    def train(self, request: TrainRequest) -> Update | MaskedUpdate | Refusal:
        """Run one round; spend its noise before anything leaves, and mask where it is summed."""
        config = config_in(request.config_json)
        is_summed = config.secure_aggregation.enabled
        if is_summed != (request.secure_json != NOT_SECURE):
            return self._refuse("the request and the run disagree on whether updates are masked")
        if is_summed:
            no = self._member().objection(request, terms=self._terms(request))
            if no is not None:
                return no
        answer = self._trainer.train(request)
        if isinstance(answer, Refusal):
            return answer
        update = coarse(at_precision(answer, config), config)
        epsilons = self._spend(request, update, config)
        update = replace(update, metrics={**update.metrics, **epsilons})
        if not is_summed:
            return update
        masked = self._member().masked(request, update, terms=self._terms(request))
        return masked if isinstance(masked, Refusal) else with_epsilon(masked, update)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure a model, where the run lets one site's numbers be seen."""
        if config_in(request.config_json).secure_aggregation.enabled:
            return self._refuse("in a run whose updates are masked no site's measurement leaves")
        answer = self._trainer.evaluate(request)
        if isinstance(answer, Evaluation):
            with self._ledger_at_hand():
                self._ledger.note_release(
                    EVALUATION,
                    run=request.run,
                    server_round=request.server_round,
                    request_digest=message_digest(request),
                    now=self._now(),
                )
        return answer

    def keys(self, request: KeysRequest) -> Keys | Refusal:
        """Give keys of the secure sum."""
        return self._member().keys(request, terms=self._terms(request))

    def unmask(self, request: UnmaskRequest) -> Shares | Refusal:
        """Help to open the sums of a round."""
        return self._member().shares(request, terms=self._terms(request))

    def _spend(self, request: TrainRequest, update: Update, config: RunConfig) -> Metrics:
        """Enter a round into the ledger; return what was spent on the training part so far."""
        ledger = self._ledger
        spending, digest, now = round_spending(config), message_digest(request), self._now()
        run, server_round = request.run, request.server_round
        with self._ledger_at_hand():
            note_without_noise(
                ledger,
                update,
                config=config,
                run=run,
                server_round=server_round,
                request_digest=digest,
                now=now,
            )
            if spending is None:
                return {}
            ledger.spend(
                spending, run=run, server_round=server_round, request_digest=digest, now=now
            )
        count_layers(self._site.state, site=self._site.name, run=run, server_round=server_round)
        return epsilons_of(ledger, config.privacy, run=run)

    @contextmanager
    def _ledger_at_hand(self) -> Iterator[None]:
        """Say of a ledger that cannot be written what it is: nothing leaves without it."""
        try:
            yield
        except OSError as error:
            raise LedgerError(
                f"{self._folder / LEDGER_FILE} cannot be written ({type(error).__name__}), and "
                "nothing leaves that is not written down. Make room for it and let this user write "
                "there."
            ) from error

    def _member(self) -> SecureMember:
        if self._site.signing_key is None:
            raise ConfigError(f"site {self._site.name} has no signing key, which the sum needs.")
        return SecureMember(
            self._folder / SECURE_FOLDER,
            site=self._site.name,
            task=self._site.task,
            key=read_private_key(self._site.signing_key),
        )

    def _terms(self, request: TrainRequest | KeysRequest | UnmaskRequest) -> Terms:
        """Return on what terms it is in a run's sums: there is no policy or manifest here."""
        config = config_in(request.config_json)
        return Terms(
            peers=self._peers(),
            least=config.secure_aggregation.min_group,
            run_digest=text_digest(request.config_json),
        )

    def _peers(self) -> Mapping[str, PublicKey]:
        """Return the keys of the other sites."""
        own = self._site.name
        return {site: public_key(text) for site, text in self._site.site_keys if site != own}

    def _refuse(self, reason: str) -> Refusal:
        return Refusal(self._site.name, RefusalCode.FORBIDDEN, reason)
