import pytest
import torch

from common.model.schedule import learning_rate_factor, steps_per_round


def factors(total: int, *, warmup: float = 0.0, final: float = 0.0) -> list[float]:
    return [
        learning_rate_factor(step, total_steps=total, warmup_fraction=warmup, final_fraction=final)
        for step in range(total)
    ]


def test_without_warm_up_it_is_torch_s_cosine() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=19, eta_min=0.1)
    expected = []
    for _ in range(20):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()

    assert factors(20, final=0.1) == pytest.approx(expected)


def test_warm_up_rises_linearly_to_the_peak() -> None:
    assert factors(20, warmup=0.2)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_it_ends_at_the_final_fraction_and_stays_there() -> None:
    late = learning_rate_factor(99, total_steps=10, warmup_fraction=0.0, final_fraction=0.05)

    assert factors(10, final=0.05)[-1] == pytest.approx(0.05)
    assert late == pytest.approx(0.05)


def test_a_run_of_one_step_trains_at_the_peak() -> None:
    assert factors(1) == [1.0]


def test_the_last_smaller_batch_is_a_step() -> None:
    assert steps_per_round(33, batch_size=16, epochs=2) == 6
