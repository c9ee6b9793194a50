"""The usual Flower ServerApp: FedAvg, and a clock around each of its rounds."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from plain.common import config_of, network_of

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg that notes when its rounds begin and end, and how long the sites worked."""

    def __init__(self) -> None:
        """Ask both sites every round, in a train and in an evaluate message."""
        super().__init__(min_train_nodes=2, min_evaluate_nodes=2, min_available_nodes=2)
        self.rounds: list[dict[str, float]] = []

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Start the round's clock."""
        self.rounds.append({"started": time.monotonic()})
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Note the slower site's training."""
        replies = list(replies)
        self.rounds[-1]["train_s"] = _slowest(replies)
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Note the slower site's evaluation and stop the clock."""
        replies = list(replies)
        merged = super().aggregate_evaluate(server_round, replies)
        self.rounds[-1]["evaluate_s"] = _slowest(replies)
        self.rounds[-1]["wall_s"] = time.monotonic() - self.rounds[-1].pop("started")
        return merged


def _slowest(replies: list[Message]) -> float:
    return max(float(reply.content["metrics"]["seconds"]) for reply in replies)


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds and write the timings."""
    config = config_of(context.run_config["config"])
    strategy = TimedFedAvg()
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(network_of(config).state_dict()),
        num_rounds=config.federation.rounds,
    )
    out = Path(str(context.run_config["out"]))
    partial = out.with_suffix(".partial")
    partial.write_text(json.dumps(strategy.rounds))
    partial.rename(out)
