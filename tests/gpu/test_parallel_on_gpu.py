"""Training with one process per GPU: refused where there are too few, else equal to one process."""

from pathlib import Path

import pytest
import torch

from client.training.local_step import LocalResult, Steps
from client.training.parallel import ParallelTraining
from common.config.reading import load_config
from common.config.run import PhantomSource, RunConfig
from common.datasets.prepare import prepare_shard
from common.datasets.sources import open_source
from common.errors import ConfigError
from common.model.network import Network, build_network

pytestmark = pytest.mark.gpu

SITE = "valley"
CHANGES = ("data.image_size_px=64", "model.image_size_px=64", "train.batch_size=13")
# float32 throughout, and steps small enough that Adam cannot blow rounding up.
CHANGES += ("train.mixed_precision='off'", "train.learning_rate=0.0001")
CHANGES += tuple(f"sites.{number}.source.patients=20" for number in range(5))


@pytest.fixture(autouse=True)
def gpus() -> int:
    if not torch.cuda.is_available():
        pytest.fail(
            "no CUDA device can be used here, so nothing was checked on a GPU. Run `make test-gpu` "
            f"on a machine with one and a torch built for CUDA (this is torch {torch.__version__})."
        )
    return torch.cuda.device_count()


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return load_config(Path("configs/experiments/demo.yaml"), CHANGES).run


@pytest.fixture(scope="module")
def shard(config: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = next(site for site in config.sites if site.name == SITE)
    assert isinstance(site.source, PhantomSource)
    folder = tmp_path_factory.mktemp("shards")
    source = open_source(
        site.source,
        task=config.task(site.task),
        data_root=folder,
        config_root=Path("configs"),
        site=SITE,
        seed=1,
    )
    prepare_shard(
        source,
        task=config.task(site.task),
        parts={"train": 0.7, "val": 0.2, "test": 0.1},
        data=config.data,
        seed=config.seed,
        out=folder / SITE,
    )
    return folder / SITE


def trained(processes: int, config: RunConfig, shard: Path) -> tuple[Network, LocalResult]:
    network = build_network(config.model, config.task_table(), seed=1).to("cuda")
    training = ParallelTraining(processes, shard=shard, num_threads=2, timeout_s=120)
    try:
        result = training.train(
            network,
            config=config,
            task=config.task("retina"),
            seed=11,
            steps=Steps(first=2, total=40),
            proximal_mu=0.0,
            anchored=(),
        )
    finally:
        training.close()
    return network, result


def test_more_processes_than_gpus_are_refused(gpus: int, config: RunConfig, shard: Path) -> None:
    with pytest.raises(ConfigError, match=f"processes is {gpus + 1}, .* shows {gpus} GPUs"):
        trained(gpus + 1, config, shard)


def test_two_gpus_train_what_one_does(gpus: int, config: RunConfig, shard: Path) -> None:
    if gpus < 2:
        pytest.skip("this machine has one GPU; two processes need two")
    one, expected = trained(1, config, shard)
    two, result = trained(2, config, shard)

    assert result.num_steps == expected.num_steps
    assert result.metrics["total"] == pytest.approx(expected.metrics["total"], rel=1e-4)
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=0, atol=1e-4)
