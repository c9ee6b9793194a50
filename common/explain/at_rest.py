"""A network at rest while it is explained: evaluation mode, and no gradients for its weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def at_rest(network: nn.Module) -> Iterator[None]:
    """Hold a network still, let pictures have gradients, and put everything back at the end.

    Every module is in evaluation mode, so that dropout and batch statistics do not draw another
    map each time. Parameters want no gradients, which spares a backward pass their part and keeps
    what training has gathered. Gradients are on, even where the caller has turned them off;
    nest ``torch.no_grad()`` within where none are needed. Not for two threads on one network.
    """
    modes = [(module, module.training) for module in network.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        network.eval()
        network.requires_grad_(False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter, is_wanted in wanted:
            parameter.requires_grad_(is_wanted)
