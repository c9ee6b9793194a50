"""A training step on a CUDA device: where it computes, how exactly, and that maps still add up."""

from pathlib import Path

import pytest
import torch
import yaml

from common.config.loss import LossConfig
from common.config.model import ModelConfig
from common.config.run import TrainConfig
from common.datasets.sample import Batch
from common.learning.device import autocast, chosen_device, on_device
from common.learning.loss import total_loss
from common.model.network import Network, Output, build_network
from common.tasks import TASKS

pytestmark = pytest.mark.gpu

TASK = TASKS["chestx"]
DEFAULTS = yaml.safe_load(Path("configs/default.yaml").read_text(encoding="utf-8"))
LOSS = LossConfig.model_validate(DEFAULTS["loss"])
TRAIN = TrainConfig.model_validate(DEFAULTS["train"])  # bf16 on a GPU, chosen by `auto`
PICTURES = 16


@pytest.fixture(autouse=True)
def gpu() -> torch.device:
    """The device of a run that says ``auto``; these tests were asked for, so none is a failure."""
    if not torch.cuda.is_available():
        pytest.fail(
            "no CUDA device can be used here, so nothing was checked on a GPU. Run `make test-gpu` "
            f"on a machine with one and a torch built for CUDA (this is torch {torch.__version__})."
        )
    return chosen_device(TRAIN)


@pytest.fixture
def network() -> Network:
    """The tiny network on the CPU, with its branches open (they start at zero)."""
    text = Path("configs/models/tiny.yaml").read_text(encoding="utf-8")
    config = ModelConfig.model_validate(
        yaml.safe_load(text)["model"] | {"context_labels": {"chestx": ["Cardiomegaly"]}}
    )
    network = build_network(config, {TASK.name: TASK}, seed=3)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=draw))
    return network.train()


@pytest.fixture
def batch(network: Network) -> Batch:
    """Noise with targets, some unknown, and a ROI for half of the answers."""
    draw = torch.Generator().manual_seed(4)
    shape = (PICTURES, TASK.num_logits)
    target = (torch.rand(shape, generator=draw) < 0.5).float()
    target[0, 0] = torch.nan
    coverage = torch.rand(*shape, *network.grid(64), generator=draw)
    return Batch(
        image=torch.randn(PICTURES, 3, 64, 64, generator=draw),
        target=target,
        roi_coverage=(coverage - 0.8).clamp(min=0) * 5,
        has_roi=torch.rand(shape, generator=draw) < 0.5,
        concept_target=(torch.rand(PICTURES, len(TASK.concepts), generator=draw) < 0.5).float(),
        concept_coverage=torch.rand(
            PICTURES, len(TASK.concepts), *network.grid(64), generator=draw
        ),
    )


def step(network: Network, batch: Batch, device: torch.device) -> tuple[float, torch.Tensor]:
    """Return the full loss and all its gradients as one float32 vector on the CPU."""
    network.to(device).zero_grad()
    placed = on_device(batch, device)
    with autocast(TRAIN, device):
        output = network(placed.image, task=TASK.name)
        loss = total_loss(output, placed, task=TASK, config=LOSS).total
    loss.backward()
    gradients = [p.grad.float().cpu().flatten() for p in network.parameters() if p.grad is not None]
    return loss.item(), torch.cat(gradients)


def outputs(network: Network, images: torch.Tensor, device: torch.device) -> Output:
    with torch.no_grad(), autocast(TRAIN, device):
        output: Output = network.to(device)(images.to(device), task=TASK.name)
    return output


def test_full_loss_and_gradients_in_bf16_are_close_to_float32_on_the_cpu(
    network: Network, batch: Batch, gpu: torch.device
) -> None:
    exact_loss, exact = step(network, batch, torch.device("cpu"))

    loss, gradients = step(network, batch, gpu)

    assert bool(gradients.isfinite().all())
    # bf16 keeps eight bits: each of some twenty layers rounds by up to 0.4 %.
    assert loss == pytest.approx(exact_loss, rel=0.02)
    assert torch.cosine_similarity(gradients, exact, dim=0) > 0.98
    assert gradients.norm().item() == pytest.approx(exact.norm().item(), rel=0.05)


def test_a_step_of_the_optimiser_lowers_the_loss(
    network: Network, batch: Batch, gpu: torch.device
) -> None:
    before, _ = step(network, batch, gpu)
    optimiser = torch.optim.Adam(network.parameters(), lr=TRAIN.learning_rate)

    for _ in range(5):
        step(network, batch, gpu)
        optimiser.step()

    after, _ = step(network, batch, gpu)
    assert after < before


def test_the_whole_network_moves(network: Network, batch: Batch, gpu: torch.device) -> None:
    output = outputs(network, batch.image, gpu)

    tensors = [*network.parameters(), *network.buffers(), output.logits, output.maps]
    assert {tensor.device.type for tensor in tensors} == {gpu.type}


def test_maps_and_context_add_up_to_the_logits_of_each_picture(
    network: Network, batch: Batch, gpu: torch.device
) -> None:
    output = outputs(network, batch.image, gpu)

    assert output.logits.dtype == torch.float32  # sums are kept out of bf16
    parts = output.maps.double().sum(dim=(2, 3)) + output.context.double()
    torch.testing.assert_close(output.logits.double(), parts, rtol=1e-5, atol=1e-5)


def test_a_pictures_logits_do_not_depend_on_the_batch(
    network: Network, batch: Batch, gpu: torch.device
) -> None:
    together = outputs(network, batch.image, gpu).logits

    alone = torch.cat([outputs(network, image[None], gpu).logits for image in batch.image])

    # Other kernels for other batch sizes round differently, by bf16's step.
    torch.testing.assert_close(together, alone, rtol=0.02, atol=0.02)
