"""FedProx: FedAvg whose sites are held near the round's global model.

Li et al. 2020, Federated Optimization in Heterogeneous Networks, arXiv:1812.06127, eq. 2.
"""

from common.config.run import RunConfig
from common.errors import ConfigError
from server.strategies.everyone import Everyone
from server.strategies.fedavg import GradientDescent


def fedprox(config: RunConfig) -> Everyone:
    """Build FedProx. Raises ConfigError when train.proximal_mu is 0, which would be FedAvg."""
    if config.train.proximal_mu <= 0:
        raise ConfigError(
            "strategy fedprox needs train.proximal_mu > 0, got 0. Set it (0.01 is usual) or "
            "choose fedavg."
        )
    optimiser = GradientDescent(learning_rate=config.federation.server_learning_rate)
    return Everyone(optimiser, proximal_mu=config.train.proximal_mu)
