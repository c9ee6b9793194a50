"""Which parameters of a network a site trains."""

from torch.nn import Parameter

from common.model.network import Network
from common.tasks import Task


def parameters_of(network: Network, task: Task) -> dict[str, Parameter]:
    """Return the trainable parameters of the trunk and of one task's head, by name."""
    groups = ("trunk.", f"heads.{task.name}.")
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if name.startswith(groups) and parameter.requires_grad
    }
