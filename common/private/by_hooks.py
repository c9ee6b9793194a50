"""Gradients of all units at once: Opacus's rules for each kind of layer.

Yousefpour et al. 2021, https://arxiv.org/abs/2109.12298. Its convolution rule reads activations
as if they were contiguous and is wrong, without a word, after a permutation (ConvNeXt) and for
``channels_last``: common/private/check.py looks first.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from common.config.loss import LossConfig
from common.errors import ModelError
from common.learning.loss import sample_losses
from common.model.network import Network
from common.model.parameters import parameters_of
from common.private.unit_batch import UnitBatch, UnitGradients, mean_per_unit
from common.tasks import Task


def gradients_by_hooks(
    network: Network, units: UnitBatch, *, task: Task, loss: LossConfig
) -> Iterator[UnitGradients]:
    """Yield the gradients of all units.

    The hooks are gone from the network when this returns. Raises ModelError for a layer that they
    cannot serve and for a network that is not in training mode, in which they do nothing.
    """
    if not network.training:
        raise ModelError("Opacus's hooks need a network in training mode: call network.train().")
    trained = parameters_of(network, task)
    with _hooked(network):
        output = network(units.batch.image, task=task.name)
        losses = sample_losses(output, units.batch, task=task, config=loss).total
        with warnings.catch_warnings():
            # The picture needs no gradient, as it should be.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            losses.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        found = {name: getattr(value, "grad_sample", None) for name, value in trained.items()}
    yield {
        name: trained[name].new_zeros(len(units.counts), *trained[name].shape)
        if value is None  # the loss does not depend on it
        else mean_per_unit(value, units.counts)
        for name, value in found.items()
    }


@contextmanager
def _hooked(network: Network) -> Iterator[None]:
    """Attach Opacus's hooks, and leave neither them nor what they wrote behind."""
    from opacus.grad_sample import GradSampleHooks  # noqa: PLC0415 - slow to load, seldom used

    gradients = {parameter: parameter.grad for parameter in network.parameters()}
    for parameter in gradients:
        parameter.grad = None
    try:
        hooks = GradSampleHooks(network, loss_reduction="sum", strict=True)
    except NotImplementedError as error:
        raise ModelError(f"Opacus's hooks cannot serve this network: {error}.") from error
    try:
        yield
    finally:
        hooks.cleanup()
        for module in network.modules():
            for leftover in ("activations", "max_batch_len"):
                with suppress(AttributeError):  # there only where a pass broke off
                    delattr(module, leftover)
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
