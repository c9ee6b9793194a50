"""Does a map depend on what the network has learnt? Randomise the weights and look again.

Cascading randomisation from the head down, Adebayo et al. 2018, arXiv:1810.03292, section 3.1: a
method whose maps stay while the weights go shows the picture, not the model.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import ConfigError
from common.machine.seed import derive_seed, generator
from common.metrics.agreement import rank_correlation
from common.metrics.bootstrap import Float64Array
from common.metrics.localisation import ABOVE_CHANCE, LOCALISATION_METRICS, LocalisationReport
from common.metrics.stability import Explain, similarity
from common.registry import unknown_name


@dataclass(frozen=True)
class Layer:
    """One block of the network, or the whole head of a task."""

    name: str
    parameters: tuple[str, ...]  # as the network names them


@dataclass(frozen=True, eq=False)
class Stage:
    """How alike B maps still are when a layer and all nearer the head hold random weights."""

    layer: str
    spearman: Float64Array  # (B,) over pixels; 1 for two empty maps, 0 where only one is empty
    ssim: Float64Array  # (B,)


@dataclass(frozen=True)
class Sanity:
    """A method's cascade, from the head down to the picture, and the verdict."""

    stages: tuple[Stage, ...]
    threshold: float  # mean rank correlation above which maps count as the same

    @property
    def changes(self) -> bool:
        """Say whether the maps are gone once all weights are random. NaN never passes."""
        return bool(self.stages) and float(self.stages[-1].spearman.mean()) <= self.threshold

    @property
    def changes_at(self) -> str | None:
        """Name the first layer after which maps no longer count as the same, if there is one."""
        below = (s.layer for s in self.stages if float(s.spearman.mean()) <= self.threshold)
        return next(below, None)

    @property
    def verdict(self) -> str:
        """Return "changes" or "does not change"."""
        return "changes" if self.changes else "does not change"


@dataclass(frozen=True)
class BarVerdict:
    """Who meets the localisation bar: the trained network should, random ones must not."""

    trained_meets: bool
    random_meet: int  # of ``random_networks``
    random_networks: int

    @property
    def is_sane(self) -> bool:
        """Say whether the bar tells the trained network from every random one."""
        return self.trained_meets and self.random_meet == 0


def cascade(
    network: nn.Module,
    explain: Explain,
    images: Tensor,
    layers: Sequence[Layer],
    *,
    threshold: float,
    seed: int,
) -> Sanity:
    """Randomise one layer after another, keeping the earlier ones random, and compare maps.

    ``explain`` is called once per layer and once before. Weights are as before at the end, to the
    bit, whatever ``explain`` raises.

    Args:
        network: Whose weights are randomised in place; in evaluation mode.
        explain: A method for this network with task and logit decided.
        images: (B, 3, H, W).
        layers: In the order of randomisation: :func:`layers_from_head`.
        threshold: Mean rank correlation up to which maps count as changed, such as 0.5.
        seed: Of the random weights.
    """
    before = explain(images)
    stages = []
    with restored(network):
        for layer in layers:
            randomise(network, layer, seed=seed)
            after = explain(images)
            stages.append(
                Stage(
                    layer=layer.name,
                    spearman=_rank_similarity(before, after),
                    ssim=similarity(before, after),
                )
            )
    return Sanity(stages=tuple(stages), threshold=threshold)


def layers_from_head(network: nn.Module, *, task: str) -> tuple[Layer, ...]:
    """Return the layers that one task's logits pass through, from its head down to the picture.

    A head is one layer, and so is a numbered block of the transformer or the encoder. Other
    tasks' heads are left out.
    """
    own_head = f"heads.{task}"
    found: dict[str, list[str]] = {}
    for name, _ in network.named_parameters():
        if name.startswith("heads."):
            if not name.startswith(f"{own_head}."):
                continue
            layer = own_head
        else:
            layer = _block(name)
        found.setdefault(layer, []).append(name)
    # Parameters come in the order of construction: trunk before heads, encoder first.
    return tuple(Layer(name, tuple(found[name])) for name in reversed(found))


def randomise(network: nn.Module, layer: Layer, *, seed: int) -> None:
    """Draw a layer's parameters anew, in place: normal, with each tensor's mean and deviation.

    Of the same size, so that the network still computes; what training put there is gone. A tensor
    of equal values (a bias of zeros, a single threshold) stays. Buffers stay.

    Raises:
        ConfigError: The network has no such parameter.
    """
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name in layer.parameters:
            if name not in parameters:
                raise ConfigError(unknown_name("parameter", name, parameters))
            values = parameters[name]
            deviation, mean = torch.std_mean(values, correction=0)
            draw = generator(derive_seed(seed, "randomise", name))
            drawn = torch.randn(values.shape, generator=draw).to(values)
            values.copy_(mean + deviation * drawn)


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Put parameters and buffers back to the bit when the block ends, however it ends."""
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in network.state_dict().items():
                value.copy_(kept[name])


@contextmanager
def all_random(network: nn.Module, *, task: str, seed: int) -> Iterator[None]:
    """Let the network of one task hold random weights throughout while the block runs."""
    with restored(network):
        for layer in layers_from_head(network, task=task):
            randomise(network, layer, seed=seed)
        yield


def meets_bar(report: LocalisationReport, *, metric: str, margin: float = 0.0) -> bool:
    """Say whether a localisation metric is above chance by more than ``margin``, for sure.

    For sure: the lower bound of the interval of value minus chance. Without an interval (too few
    patients) nothing is sure and the bar is not met.

    Raises:
        ConfigError: For a metric that localisation does not have.
    """
    if metric not in LOCALISATION_METRICS:
        raise ConfigError(
            unknown_name("localisation metric", metric, dict.fromkeys(LOCALISATION_METRICS))
        )
    low = report.average[metric + ABOVE_CHANCE].low
    return low is not None and low > margin


def bar_verdict(
    trained: LocalisationReport,
    randomised: Sequence[LocalisationReport],
    *,
    metric: str,
    margin: float = 0.0,
) -> BarVerdict:
    """Hold a trained network and randomised ones to the same localisation bar.

    Args:
        trained: Of the network as it is.
        randomised: Of the same pictures under :func:`all_random`, one per seed.
        metric: One of ``LOCALISATION_METRICS``.
        margin: See :func:`meets_bar`.

    Raises:
        ConfigError: For a metric that localisation does not have.
    """
    return BarVerdict(
        trained_meets=meets_bar(trained, metric=metric, margin=margin),
        random_meet=sum(meets_bar(one, metric=metric, margin=margin) for one in randomised),
        random_networks=len(randomised),
    )


def _block(parameter: str) -> str:
    """Return the block a parameter belongs to: up to the first number, else its module."""
    parts = parameter.split(".")[:-1]
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts)


def _rank_similarity(first: Tensor, second: Tensor) -> Float64Array:
    one, other = (
        maps.detach().cpu().double().numpy().reshape(len(maps), -1) for maps in (first, second)
    )
    ranks = rank_correlation(one, other)
    is_flat = np.stack([np.ptp(values, axis=1) == 0 for values in (one, other)])  # (2, B)
    # A map of one value names no place: alike if both do, otherwise nothing is left of it.
    return np.where(is_flat.all(axis=0), 1.0, np.where(is_flat.any(axis=0), 0.0, ranks))
