"""The site's trainer: describes its shard, trains a round, evaluates a model.

Every request goes the same way: permit, load, step, guard, reply. A reason to say no is a
Refusal, never an exception.
"""

import logging
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from client.training.local_step import LocalResult, NonFiniteLossError, train_locally
from client.training.parallel import ParallelTraining
from client.training.state import LocalState, Making
from client.trust.request_config import config_in
from common.config.model import ModelConfig
from common.config.run import RunConfig
from common.datasets.loader import batches
from common.datasets.shard import Shard, open_shard
from common.errors import DataError, ModelError
from common.learning.device import chosen_device
from common.learning.evaluate import TaskReport, evaluate, measure, released_metrics
from common.local_site import LocalSite
from common.machine.seed import derive_seed, seed_everything
from common.messages.digests import architecture_digest
from common.messages.kinds import (
    Arrays,
    EvaluateRequest,
    Evaluation,
    Metrics,
    Refusal,
    RefusalCode,
    SiteCard,
    TrainRequest,
    Update,
)
from common.model.arrays import array_names, read_arrays, write_arrays
from common.model.layers import held_by, is_local, shared
from common.model.network import Network, build_network
from common.model.optimiser import Steps
from common.model.parameters import parameters_of
from common.model.schedule import steps_per_round
from common.private.sampling import require_units
from common.private.step import train_privately
from common.tasks import Task

log = logging.getLogger(__name__)


class Trainer:
    """Stays warm between rounds: the shard is opened and the network built once."""

    def __init__(self, site: LocalSite) -> None:
        """Take the site's own configuration; nothing is read before the first request."""
        self._site = site
        self._parallel = (
            ParallelTraining(site.processes, shard=site.shard, num_threads=site.num_threads)
            if site.processes > 1
            else None
        )

    def describe(self) -> SiteCard:
        """Return who this is and how much it holds."""
        shard = self._shard
        return SiteCard(
            site=self._site.name,
            task=self._site.task,
            num_examples=len(shard.indices("train")),
            num_val=len(shard.indices("val")),
            data_card_json=shard.card.as_json(),
        )

    def architecture_digest(self, config_json: str) -> str:
        """Return the digest of the whole network that is built here for a run's configuration."""
        return _architecture_of(config_json)

    def close(self) -> None:
        """End the processes that train together with this one."""
        if self._parallel is not None:
            self._parallel.close()

    def train(self, request: TrainRequest) -> Update | Refusal:
        """Train for one round and return the change of the shared layers.

        A run that asks for privacy gets noised steps (common/private/), any other local epochs.
        Where the request asks for it the model that came with it is measured first; a site that
        has nothing to measure it on trains all the same.
        """
        config = config_in(request.config_json)
        if reason := self._reason_against(config, request.arrays, "train"):
            return self._refuse(reason)
        if config.privacy.enabled and (reason := self._reason_against_noise(config)):
            return self._refuse(reason)
        state = self._state(config, request)
        network = self._load(config, request.arrays, state.load(before=request.server_round))
        evaluation: Metrics = {}
        if request.evaluates and len(self._shard.indices("val")):
            evaluation = released_metrics(self._measure(config, network))
        try:
            result = self._step(config, request, network)
        except NonFiniteLossError as error:
            return self._refuse(f"non-finite: {error}")
        except ModelError as error:
            return self._refuse(f"private training: {error}")
        trained = read_arrays(network, request.arrays)
        change = _change(config, request.arrays, trained)
        if reason := _reason_to_keep(change):
            return self._refuse(reason)
        local = {
            name: array
            for name, array in trained.items()
            if is_local(name, config.federation.local_layers)
        }
        if local and config.privacy.enabled:
            state.hold(local, server_round=request.server_round)
        elif local:
            state.save(local, server_round=request.server_round)
        return self._reply(request, result, evaluation, change)

    def evaluate(self, request: EvaluateRequest) -> Evaluation | Refusal:
        """Measure the global model, with this site's local layers, on the validation split."""
        config = config_in(request.config_json)
        if reason := self._reason_against(config, request.arrays, "val"):
            return self._refuse(reason)
        state = self._state(config, request)
        # The model after a round goes with the layers that this site kept in that round.
        local = state.load(before=request.server_round + 1)
        report = self._measure(config, self._load(config, request.arrays, local))
        return Evaluation(
            run=request.run,
            server_round=request.server_round,
            site=self._site.name,
            task=self._site.task,
            num_examples=report.pictures,
            metrics=released_metrics(report),
        )

    @cached_property
    def _shard(self) -> Shard:
        return open_shard(self._site.shard)

    def _reason_against(self, config: RunConfig, arrays: Arrays, part: str) -> str | None:
        """Return why this site cannot do what it is asked, or None (permit)."""
        site, shard = self._site, self._shard
        if site.task not in config.tasks:
            return f"the run has no task {site.task}"
        if (shard.task, shard.labels) != (site.task, config.task(site.task).labels):
            return "its shard was prepared for another task or other labels"
        if shard.images.shape[1] != config.data.image_size_px:
            return f"its pictures are {shard.images.shape[1]} px wide, the run's are not"
        if not len(shard.indices(part)):
            return "no training pictures" if part == "train" else f"no {part} pictures"
        network = _network_of(config)
        held = set(held_by(site.task, array_names(network)))
        if differing := sorted(held ^ set(arrays)):
            return f"the arrays are not this network's: {differing[0]} differs"
        return None

    def _reason_against_noise(self, config: RunConfig) -> str | None:
        """Return why this site cannot train privately as the run asks for it, or None."""
        if self._parallel is not None:
            return (
                f"private training uses one process, this site {self._site.processes}: set "
                "machine.processes to 1 in site.yaml"
            )
        try:
            require_units(self._shard, "train", unit=config.privacy.unit)
        except DataError as error:
            return f"private training: {error}"
        return None

    def _load(self, config: RunConfig, arrays: Arrays, local: Arrays) -> Network:
        """Return the network with the request's arrays and, over them, the site's own layers."""
        torch.set_num_threads(self._site.num_threads)
        network = _network_of(config)
        write_arrays(network, arrays)
        own = {n: a for n, a in local.items() if is_local(n, config.federation.local_layers)}
        write_arrays(network, own)
        return network

    def _state(self, config: RunConfig, request: TrainRequest | EvaluateRequest) -> LocalState:
        """Return the layers kept here that were made as this configuration makes them.

        A private run never starts from layers that were trained without noise. Its own local
        layers are trained with the noise that the shared ones get (common/private/step.py), so
        what they tell through later updates is spent already.
        """
        making = Making(
            task=self._site.task,
            labels=config.task(self._site.task).labels,
            local_layers=tuple(config.federation.local_layers),
            architecture_digest=_architecture_of(request.config_json),
            noised_for=config.privacy.unit if config.privacy.enabled else None,
        )
        site = self._site
        return LocalState(site.state, site=site.name, run=request.run, kind=making.kind)

    def _measure(self, config: RunConfig, network: Network) -> TaskReport:
        """Measure the loaded network on the validation split; draws no random numbers."""
        predicted = evaluate(
            network,
            self._shard,
            "val",
            task=config.task(self._site.task),
            loss=config.loss,
            batch_size=config.evaluation.batch_size,
        )
        # The answer has no place for intervals, so none are bootstrapped.
        values_only = config.evaluation.model_copy(update={"bootstrap_replicates": 0})
        return measure(predicted, config=values_only, seed=config.seed)

    def _step(self, config: RunConfig, request: TrainRequest, network: Network) -> LocalResult:
        task = config.task(self._site.task)
        anchors = {
            name: parameter.detach().clone()
            for name, parameter in parameters_of(network, task).items()
            if request.proximal_mu and not is_local(name, config.federation.local_layers)
        }
        if config.privacy.enabled:
            private = train_privately(
                network,
                self._shard,
                task=task,
                config=config,
                server_round=request.server_round,
                proximal_mu=request.proximal_mu,
                anchors=anchors,
            )
            return LocalResult(private.num_steps, {"seconds": private.seconds})
        return self._plain_step(config, request, network, task=task, anchors=anchors)

    def _plain_step(
        self,
        config: RunConfig,
        request: TrainRequest,
        network: Network,
        *,
        task: Task,
        anchors: dict[str, Tensor],
    ) -> LocalResult:
        site, shard = self._site, self._shard
        seed = derive_seed(config.seed, "train", site.name, request.server_round)
        seed_everything(seed)
        steps = self._place_in_schedule(config, request)
        if self._parallel is not None:
            return self._parallel.train(
                network,
                config=config,
                task=task,
                seed=seed,
                steps=steps,
                proximal_mu=request.proximal_mu,
                anchored=list(anchors),
            )
        epochs = [
            batches(
                shard,
                "train",
                batch_size=config.train.batch_size,
                task=task,
                grid=network.grid(config.data.image_size_px),
                augment=config.data.augment[site.task],
                seed=derive_seed(seed, "epoch", epoch),
                shuffle=True,
            )
            for epoch in range(config.train.epochs)
        ]
        return train_locally(
            network,
            epochs,
            task=task,
            train=config.train,
            loss=config.loss,
            steps=steps,
            proximal_mu=request.proximal_mu,
            anchors=anchors,
        )

    def _place_in_schedule(self, config: RunConfig, request: TrainRequest) -> Steps:
        """Return where the run's schedule stands, and how long it is here.

        Under masks it follows from what all sites know alike: were it the coordinator's to say, it
        could have all sites but one train at the end of the schedule, by steps of next to nothing,
        and the sum would be the update of the one.
        """
        if not config.secure_aggregation.enabled:
            return Steps(first=request.global_step, total=request.total_steps)
        steps = steps_per_round(
            len(self._shard.indices("train")),
            batch_size=config.train.batch_size,
            epochs=config.train.epochs,
        )
        first = (request.server_round - 1) * steps
        return Steps(first=first, total=config.federation.rounds * steps)

    def _reply(
        self,
        request: TrainRequest,
        result: LocalResult,
        evaluation: Metrics,
        change: dict[str, NDArray[np.float32]],
    ) -> Update:
        log.info(
            "update ready",
            extra={
                "action": "update_ready",
                "site": self._site.name,
                "round": request.server_round,
                "steps": result.num_steps,
            },
        )
        return Update(
            run=request.run,
            server_round=request.server_round,
            site=self._site.name,
            task=self._site.task,
            num_examples=len(self._shard.indices("train")),
            num_steps=result.num_steps,
            metrics=result.metrics,
            evaluation=evaluation,
            arrays=change,
        )

    def _refuse(self, reason: str) -> Refusal:
        log.warning(
            "request refused",
            extra={"action": "refused", "site": self._site.name, "reason": reason},
        )
        return Refusal(site=self._site.name, code=RefusalCode.UNABLE, reason=reason)


def _change(config: RunConfig, before: Arrays, after: Arrays) -> dict[str, NDArray[np.float32]]:
    """Return after minus before of the layers that leave the site."""
    return {
        name: np.asarray(after[name] - before[name])
        for name in shared(before, config.federation.local_layers)
    }


def _reason_to_keep(change: Arrays) -> str | None:
    """Return why an update must not leave, or None (guard)."""
    for name, array in change.items():
        if not np.isfinite(array).all():
            return f"non-finite: {name} after training"
    return None


@lru_cache(maxsize=1)
def _architecture_of(config_json: str) -> str:
    network = _network_of(config_in(config_json))
    return architecture_digest(read_arrays(network, array_names(network)))


def _network_of(config: RunConfig) -> Network:
    """Return the run's network; each request brings its weights.

    Never with downloaded weights: round 0 ships them.
    """
    encoder = config.model.encoder.model_copy(update={"pretrained": False})
    model = config.model.model_copy(update={"encoder": encoder})
    tasks = tuple(config.task_table().values())
    device = str(chosen_device(config.train))
    return _built(model.model_dump_json(), tasks, config.seed, device)


@lru_cache(maxsize=1)
def _built(model_json: str, tasks: tuple[Task, ...], seed: int, device: str) -> Network:
    """Build a network once per process: sites of one run differ in nothing that is named here."""
    model = ModelConfig.model_validate_json(model_json)
    return build_network(model, {task.name: task for task in tasks}, seed=seed).to(device)
