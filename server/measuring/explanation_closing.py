"""What is measured once of the model that a run hands on: its signs, and methods side by side.

On the part ``selection`` of the reference sets, as every round: the other parts stay locked.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.config.run import RunConfig
from common.datasets.shard import Shard
from common.model.network import Network
from server.measuring.central_eval import PART
from server.measuring.explanation_methods import MethodsReport, compare_methods
from server.measuring.explanation_signs import SignsReport, measure_signs


@dataclass(frozen=True, eq=False)
class ClosingReport:
    """What one model was found to look at, when the rounds were over."""

    server_round: int  # whose model it is
    signs: Mapping[str, SignsReport]  # by task; none where its signs have no heads
    methods: Mapping[str, MethodsReport]  # by task; none where nothing is outlined
    left_out: Mapping[str, str]  # tasks that the model does not answer → why
    signs_seconds: float = field(compare=False)
    methods_seconds: float = field(compare=False)


def closing_look(
    network: Network,
    shards: Mapping[str, Shard],
    *,
    config: RunConfig,
    server_round: int,
    left_out: Mapping[str, str],
) -> ClosingReport:
    """Measure the model that is in the network.

    Args:
        network: With the model, on the device to be used; left in the mode it came in.
        shards: The reference set of every task of the run.
        config: The run's.
        server_round: Whose model it is.
        left_out: Tasks that nobody has trained it to answer, each with the reason.
    """
    kept = {name: shards[name] for name in config.tasks if name not in left_out}
    started = time.monotonic()
    signs = {
        name: measure_signs(
            network,
            shard,
            PART,
            task=config.task(name),
            rules=config.evaluation,
            seed=config.seed,
        )
        for name, shard in kept.items()
    }
    looked = time.monotonic()
    methods = compare_methods(network, kept, PART, config=config)
    return ClosingReport(
        server_round=server_round,
        signs={name: found for name, found in signs.items() if found is not None},
        methods=methods,
        left_out=left_out,
        signs_seconds=looked - started,
        methods_seconds=time.monotonic() - looked,
    )
