"""The usual Flower ClientApp: every message builds the network, loads weights, works, replies."""

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from client.training.local_step import Steps, train_locally
from common.config.run import RunConfig
from common.datasets.loader import batches
from common.datasets.sample import Batch
from common.datasets.shard import Shard, open_shard
from common.learning.loss import total_loss
from common.model.network import Network
from plain.common import config_of, network_of

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the local epochs and return all weights."""
    config = config_of(context.run_config["config"])
    network = network_of(config)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    torch.set_num_threads(1)
    shard = open_shard(Path(str(context.node_config["shard"])))
    started = time.monotonic()
    result = train_locally(
        network,
        [_batches(config, network, shard, "train") for _ in range(config.train.epochs)],
        task=config.task(shard.task),
        train=config.train,
        loss=config.loss,
        steps=Steps(first=0, total=100),
        proximal_mu=0.0,
        anchors={},
    )
    metrics = {"num-examples": len(shard.indices("train")), "seconds": time.monotonic() - started}
    content = RecordDict(
        {
            "arrays": ArrayRecord(network.state_dict()),
            "metrics": MetricRecord({**metrics, "steps": result.num_steps}),
        }
    )
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the loss on the validation part."""
    config = config_of(context.run_config["config"])
    network = network_of(config)
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    torch.set_num_threads(1)
    shard = open_shard(Path(str(context.node_config["shard"])))
    task = config.task(shard.task)
    started = time.monotonic()
    network.eval()
    total, seen = 0.0, 0
    with torch.no_grad():
        for batch in _batches(config, network, shard, "val"):
            output = network(batch.image, task=task.name)
            parts = total_loss(output, batch, task=task, config=config.loss)
            total += float(parts.total) * len(batch)
            seen += len(batch)
    seconds = time.monotonic() - started
    metrics = MetricRecord({"num-examples": seen, "loss": total / seen, "seconds": seconds})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


def _batches(config: RunConfig, network: Network, shard: Shard, part: str) -> Iterator[Batch]:
    is_training = part == "train"
    return batches(
        shard,
        part,
        batch_size=config.train.batch_size,
        task=config.task(shard.task),
        grid=network.grid(config.data.image_size_px),
        augment=config.data.augment[shard.task] if is_training else None,
        seed=config.seed,
        shuffle=is_training,
    )
