"""Maps must go when weights go, weights must come back, and a random model must fail the bar."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from torch import Tensor

from common.config.model import ModelConfig
from common.errors import ConfigError
from common.explain.evidence import evidence
from common.metrics.localisation import (
    LocalisationReport,
    LocalisedCase,
    localisation_metrics,
    localise,
)
from common.metrics.sanity import (
    Layer,
    Sanity,
    all_random,
    bar_verdict,
    cascade,
    layers_from_head,
    meets_bar,
    randomise,
    restored,
)
from common.model.network import Network, build_network
from common.studies.looks_config import load_looks_config
from common.studies.looks_measures import colour
from common.studies.looks_phantom import Phantoms, make_phantoms
from common.studies.looks_training import TASK, train_variant
from common.tasks import task_named

SIDE_PX = 64


@pytest.fixture
def network() -> Network:
    values = yaml.safe_load(Path("configs/models/tiny.yaml").read_text())["model"]
    tasks = {name: task_named(name, None) for name in ("retina", "pathoscan")}
    return build_network(ModelConfig.model_validate(values), tasks, seed=1).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn((3, 3, SIDE_PX, SIDE_PX), generator=torch.Generator().manual_seed(0))


def state_of(network: Network) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def own_map(network: Network, pictures: Tensor) -> Tensor:
    return evidence(network, pictures, task="pathoscan", logit=0)


def picture_map(pictures: Tensor) -> Tensor:
    """What an edge detector does: it shows the picture whatever the network has learnt."""
    values = pictures.mean(dim=1).abs()
    return values / values.sum(dim=(1, 2), keepdim=True)


def test_layers_go_from_the_tasks_head_to_the_picture_and_miss_nothing(network: Network) -> None:
    layers = layers_from_head(network, task="pathoscan")

    names = [layer.name for layer in layers]
    assert names[0] == "heads.pathoscan"
    assert names.index("trunk.transformer.blocks.1") < names.index("trunk.transformer.blocks.0")
    assert names[-1] == "trunk.encoder.net.stem_conv"
    parameters = [name for layer in layers for name in layer.parameters]
    wanted = {n for n, _ in network.named_parameters() if not n.startswith("heads.retina.")}
    assert len(parameters) == len(set(parameters))
    assert set(parameters) == wanted


def test_random_weights_are_of_the_same_size_and_follow_the_seed(network: Network) -> None:
    name = "trunk.project_evidence.weight"
    layer = Layer("trunk.project_evidence", (name,))
    before = network.get_parameter(name).detach().clone()
    drawn = []
    for seed in (0, 0, 1):
        with restored(network):
            randomise(network, layer, seed=seed)
            drawn.append(network.get_parameter(name).detach().clone())

    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert float(drawn[0].std()) == pytest.approx(float(before.std()), rel=0.1)
    correlation = np.corrcoef(before.flatten().numpy(), drawn[0].flatten().numpy())[0, 1]
    assert abs(correlation) < 0.1


def test_own_map_changes_and_a_drawing_of_the_picture_does_not(
    network: Network, images: Tensor
) -> None:
    layers = layers_from_head(network, task="pathoscan")

    own = cascade(network, lambda x: own_map(network, x), images, layers, threshold=0.5, seed=0)
    drawing = cascade(network, picture_map, images, layers, threshold=0.5, seed=0)

    assert own.verdict == "changes"
    assert own.changes_at in [layer.name for layer in layers]
    assert drawing.verdict == "does not change"
    assert drawing.changes_at is None
    assert [stage.layer for stage in own.stages] == [layer.name for layer in layers]
    assert all(stage.ssim == pytest.approx(np.ones(3)) for stage in drawing.stages)


def test_stages_pile_up_and_are_scipys_rank_correlations(network: Network, images: Tensor) -> None:
    layers = layers_from_head(network, task="pathoscan")[:3]
    before = own_map(network, images)

    measured = cascade(
        network, lambda x: own_map(network, x), images, layers, threshold=0.5, seed=4
    )

    with restored(network):
        for layer in layers:
            randomise(network, layer, seed=4)
        after = own_map(network, images)
    expected = [
        spearmanr(one.flatten(), other.flatten()).statistic
        for one, other in zip(before.numpy(), after.numpy(), strict=True)
    ]
    np.testing.assert_allclose(measured.stages[-1].spearman, expected, atol=1e-9)


def test_weights_come_back_to_the_bit_even_when_the_method_fails(
    network: Network, images: Tensor
) -> None:
    before = state_of(network)
    layers = layers_from_head(network, task="pathoscan")
    calls = []

    def failing(pictures: Tensor) -> Tensor:
        calls.append(len(pictures))
        if len(calls) == 4:
            raise RuntimeError("no map")
        return own_map(network, pictures)

    with pytest.raises(RuntimeError, match="no map"):
        cascade(network, failing, images, layers, threshold=0.5, seed=0)

    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_map_that_vanishes_has_changed_and_one_that_was_empty_has_not(
    network: Network, images: Tensor
) -> None:
    layers = layers_from_head(network, task="pathoscan")[:1]
    some, none = picture_map(images), torch.zeros(3, SIDE_PX, SIDE_PX)
    maps = iter([some, none, none, none])

    vanished, empty = (
        cascade(network, lambda _: next(maps), images, layers, threshold=0.5, seed=0)
        for _ in range(2)
    )

    assert vanished.stages[0].spearman.tolist() == [0, 0, 0]
    assert empty.stages[0].spearman.tolist() == [1, 1, 1]
    assert not Sanity(stages=(), threshold=0.5).changes


def test_unknown_parameter_and_metric_are_named(network: Network) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        randomise(network, Layer("nothing", ("trunk.nothing",)), seed=0)
    report = localisation_metrics((), replicates=0, min_patients=1, rng=np.random.default_rng(0))
    with pytest.raises(ConfigError, match="Did you mean 'energy_in_roi'"):
        meets_bar(report, metric="energy_in_rois")


@pytest.fixture(scope="module")
def trained() -> tuple[Network, Phantoms]:
    """A network that has just learnt to point at easy lesions, and pictures it has not seen."""
    config = load_looks_config(Path("configs/studies/looks.yaml"))
    scenario = config.default["shortcut"]
    phantom = {"train_count": 160, "lesion_amplitude": 3.0, "roi_share": 1.0}
    phantom |= {"train_marker_agreement": 0.5}
    scenario = scenario.model_copy(
        update={
            "phantom": scenario.phantom.model_copy(update=phantom),
            "training": scenario.training.model_copy(update={"steps": 30, "batch_size": 16}),
        }
    )
    seen, unseen = (
        make_phantoms(scenario.phantom, count=count, marker_agreement=0.5, seed=seed)
        for count, seed in ((160, 0), (48, 1))
    )
    variant = scenario.variants["full"]
    network = train_variant(scenario, variant, config.loss, train=seen, seed=0).network
    return network.eval(), unseen


def localised(network: Network, phantoms: Phantoms) -> LocalisationReport:
    positive = (phantoms.label > 0).nonzero()[:, 0]
    maps = evidence(network, colour(phantoms.images[positive]), task=TASK.name, logit=0)
    rows = [
        LocalisedCase("lesion", number, localise(drawn, phantoms.lesion[index, 0].numpy()))
        for number, (index, drawn) in enumerate(zip(positive.tolist(), maps.numpy(), strict=True))
    ]
    return localisation_metrics(rows, replicates=300, min_patients=10, rng=np.random.default_rng(0))


def test_randomised_model_fails_the_bar_that_the_trained_one_meets(
    trained: tuple[Network, Phantoms],
) -> None:
    network, phantoms = trained
    before = state_of(network)
    own = localised(network, phantoms)
    randomised = []
    for seed in range(3):
        with all_random(network, task=TASK.name, seed=seed):
            randomised.append(localised(network, phantoms))

    verdict = bar_verdict(own, randomised, metric="energy_in_roi", margin=0.1)

    assert verdict.trained_meets
    assert verdict.random_meet == 0
    assert verdict.random_networks == 3
    assert verdict.is_sane
    assert not bar_verdict(own, [own], metric="energy_in_roi").is_sane
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())
