"""The small network of one set: trained with the project's own loss, or kept from last time."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from common.datasets.loader import batches
from common.errors import DataError, ModelError
from common.learning.loss import total_loss
from common.machine.seed import derive_seed
from common.model.network import Network, build_network
from common.model.optimiser import Steps, optimiser_of, set_learning_rate
from common.model.parameters import parameters_of
from common.model.weights import load_weights
from common.studies.explanations_sets import PreparedSet


def trained_network(prepared: PreparedSet, *, seed: int, kept: Path) -> Network:
    """Return a set's network in evaluation mode, from ``kept`` if it is there.

    Args:
        prepared: The set.
        seed: Of weights, order and augmentation.
        kept: File of the weights; it is written where it is missing. Its name must tell all that
            decides them.

    Raises:
        ModelError: The recipe's model cannot be built.
        DataError: The training part is empty.
    """
    network = build_network(prepared.run.model, {prepared.task.name: prepared.task}, seed=seed)
    if kept.exists():
        load_weights(network, kept)
        return network.eval()
    _train(network, prepared, seed=seed)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_suffix(".partial")
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(state, str(partial))
    partial.replace(kept)
    return network.eval()


def _train(network: Network, prepared: PreparedSet, *, seed: int) -> None:
    """Take the set's steps with the recipe's optimiser over as many epochs as they need."""
    run, task = prepared.run, prepared.task
    total = prepared.config.steps
    parameters = parameters_of(network, task)
    optimiser = optimiser_of(parameters, run.train)
    network.train()
    taken, epoch = 0, 0
    while taken < total:
        before = taken
        for batch in batches(
            prepared.shard,
            "train",
            task=task,
            batch_size=run.train.batch_size,
            grid=network.grid(int(prepared.shard.images.shape[1])),
            augment=run.data.augment[task.name],
            seed=derive_seed(seed, "epoch", epoch),
        ):
            set_learning_rate(optimiser, run.train, Steps(first=0, total=total), taken=taken)
            parts = total_loss(
                network(batch.image, task=task.name), batch, task=task, config=run.loss
            )
            if not bool(parts.total.isfinite()):
                raise ModelError(
                    f"set {prepared.name}: the loss was not finite at step {taken + 1}. Lower the "
                    "recipe's learning rate."
                )
            optimiser.zero_grad(set_to_none=True)
            parts.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            torch.nn.utils.clip_grad_norm_(parameters.values(), run.train.clip_norm)
            optimiser.step()
            taken += 1
            if taken == total:
                break
        if taken == before:
            raise DataError(f"set {prepared.name}: its training part is empty; lower test_share.")
        epoch += 1
    optimiser.zero_grad(set_to_none=True)
