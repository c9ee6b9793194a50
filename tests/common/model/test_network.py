"""The network's contract: additive parts, gates, context, heads, seeds, probabilities."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from common.config.model import ModelConfig
from common.errors import ModelError
from common.model.network import build_network, grade_probabilities, probabilities
from common.tasks import TASKS

Configured = Callable[..., ModelConfig]
PICTURES = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CONTEXT = {"chestx": ("Cardiomegaly", "Effusion"), "retina": ("severity",)}
VARIANTS = [
    ("cnn", "transformer"),
    ("cnn", "local"),
    ("transformer", "transformer"),
]


@pytest.mark.parametrize("task", list(TASKS))
@pytest.mark.parametrize(("evidence_from", "gate_from"), VARIANTS)
def test_parts_and_context_sum_to_the_logit(
    configured: Configured, task: str, evidence_from: str, gate_from: str
) -> None:
    config = configured(
        "tiny", evidence_from=evidence_from, gate_from=gate_from, context_labels=CONTEXT
    )

    output = build_network(config, TASKS, seed=0)(PICTURES, task=task)

    gap = output.maps.sum(dim=(2, 3)) + output.context - output.logits
    assert gap.abs().max() < 1e-5
    torch.testing.assert_close(output.maps, output.gate * output.evidence)


@pytest.mark.parametrize("task", list(TASKS))
def test_shapes_follow_the_task_and_the_grid(configured: Configured, task: str) -> None:
    network = build_network(configured("tiny"), TASKS, seed=0)

    output = network(PICTURES, task=task)

    logits, (rows, columns) = TASKS[task].num_logits, network.grid(64)
    assert output.maps.shape == (3, logits, rows, columns)
    assert output.logits.shape == output.context.shape == (3, logits)
    assert output.class_logits.shape == (3, len(TASKS[task].class_names))
    assert output.attention_grid == (8, 8)
    assert [a.shape for a in output.attention] == [(3, 4, 64, 64)] * 2


def test_gate_and_attention_rows_sum_to_one(configured: Configured) -> None:
    output = build_network(configured("tiny"), TASKS, seed=0)(PICTURES, task="chestx")

    gate = output.gate.sum(dim=(2, 3))
    torch.testing.assert_close(gate, torch.ones_like(gate))
    for attention in output.attention:
        rows = attention.sum(dim=-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


def test_attention_equals_torchs_own_multi_head_attention(configured: Configured) -> None:
    ours = build_network(configured("tiny"), TASKS, seed=0).trunk.transformer.blocks[0].attention
    theirs = nn.MultiheadAttention(64, 4, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.query_key_value.weight,
            "in_proj_bias": ours.query_key_value.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    tokens = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(1))

    mixed, attention = ours(tokens)

    expected, weights = theirs(tokens, tokens, tokens, average_attn_weights=False)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(attention, weights)


def test_context_is_zero_where_the_task_lists_none(configured: Configured) -> None:
    network = build_network(configured("tiny", context_labels=CONTEXT), TASKS, seed=0)

    context = network(PICTURES, task="chestx").context

    listed = torch.tensor([label in CONTEXT["chestx"] for label in TASKS["chestx"].labels])
    assert (context[:, ~listed] == 0).all()
    assert (context[:, listed] != 0).all()
    assert (network(PICTURES, task="pathoscan").context == 0).all()


def test_a_coarser_transformer_is_brought_to_the_evidence_grid(configured: Configured) -> None:
    config = configured("tiny", encoder={"transformer_stage": 3, "token_stride_px": 8})

    output = build_network(config, TASKS, seed=0)(PICTURES, task="retina")

    assert output.attention_grid == (4, 4)
    assert output.gate.shape[-2:] == output.evidence.shape[-2:] == (8, 8)
    torch.testing.assert_close(output.gate.sum(dim=(2, 3)), torch.ones(3, 1))


def test_small_and_base_have_sixteen_by_sixteen_tokens_at_256_px(configured: Configured) -> None:
    for size in ("small", "base"):
        network = build_network(configured(size), {"pathoscan": TASKS["pathoscan"]}, seed=0)
        with torch.no_grad():
            output = network.eval()(torch.zeros(1, 3, 256, 256), task="pathoscan")
        assert output.maps.shape == (1, 1, 16, 16)
        assert network.grid(256) == (16, 16)


def test_parameters_belong_to_the_trunk_or_to_one_head(configured: Configured) -> None:
    names = build_network(configured("tiny", context_labels=CONTEXT), TASKS, seed=0).state_dict()

    prefixes = {name.split(".")[0] for name in names}
    heads = {name.split(".")[1] for name in names if name.startswith("heads.")}
    assert prefixes == {"trunk", "heads"}
    assert heads == set(TASKS)


def test_same_seed_gives_the_same_network_whatever_was_drawn_before(configured: Configured) -> None:
    first = build_network(configured("tiny"), TASKS, seed=7).state_dict()
    torch.rand(5)
    second = build_network(configured("tiny"), TASKS, seed=7).state_dict()
    other = build_network(configured("tiny"), TASKS, seed=8).state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["trunk.project_deep.weight"], other["trunk.project_deep.weight"])


def test_building_leaves_the_global_random_state_alone(configured: Configured) -> None:
    before = torch.get_rng_state()
    build_network(configured("tiny"), TASKS, seed=7)
    assert torch.equal(before, torch.get_rng_state())


def test_trunk_and_head_do_not_depend_on_the_other_tasks(configured: Configured) -> None:
    alone = build_network(configured("tiny"), {"retina": TASKS["retina"]}, seed=3).state_dict()
    together = build_network(configured("tiny"), TASKS, seed=3).state_dict()

    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_ordinal_probabilities_fall_with_the_grade_and_grades_sum_to_one(
    configured: Configured,
) -> None:
    network = build_network(configured("tiny"), TASKS, seed=0)
    with torch.no_grad():
        network.heads["retina"].thresholds.gaps.uniform_(-20.0, 3.0)  # hardly any gap at all
    output = network(PICTURES, task="retina")

    at_least = probabilities(output.logits, task=TASKS["retina"], thresholds=output.thresholds)
    grades = grade_probabilities(output.logits, thresholds=output.thresholds)

    assert (output.thresholds.diff() > 0).all()
    assert at_least.shape == (3, 4)
    assert (at_least.diff(dim=1) < 0).all()
    torch.testing.assert_close(at_least, output.class_logits.sigmoid())
    assert grades.shape == (3, 5)
    assert (grades >= 0).all()
    torch.testing.assert_close(grades.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(grades[:, 3:].sum(dim=1), at_least[:, 2])


def test_multi_label_probabilities_are_sigmoids() -> None:
    logits = torch.tensor([[0.0, 2.0]])
    result = probabilities(logits, task=TASKS["chestx"], thresholds=None)
    torch.testing.assert_close(result, 1 / (1 + (-logits).exp()))


def test_parts_stay_exact_in_mixed_precision(configured: Configured) -> None:
    network = build_network(configured("tiny"), TASKS, seed=0)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(PICTURES, task="chestx")

    assert output.logits.dtype == torch.float32
    assert (output.maps.sum(dim=(2, 3)) + output.context - output.logits).abs().max() < 1e-5


def test_unknown_encoder_is_answered_with_the_nearest_name(configured: Configured) -> None:
    with pytest.raises(ModelError, match=r"unknown encoder 'nf_resnet27'\. Did you mean 'nf_res"):
        build_network(configured("tiny", encoder={"name": "nf_resnet27"}), TASKS, seed=0)


def test_unknown_option_stage_and_block_are_named(configured: Configured) -> None:
    for change, words in (
        ({"options": {"deepths": [1, 1, 1, 1]}}, "deepths"),
        ({"options": {"checkpoint_path": "/data/other.pth"}}, "checkpoint_path is no property"),
        ({"options": {"pretrained_cfg_overlay": {"file": "/data"}}}, "pretrained_cfg_overlay is"),
        ({"transformer_stage": 9}, "stages"),
        ({"evidence_block": 5}, "has 1 blocks"),
        ({"token_stride_px": 4}, "does not divide"),
        ({"name": "vit_tiny_patch16_224", "options": {}}, "vit_tiny"),
    ):
        config = configured("tiny", encoder=change)
        with pytest.raises(ModelError, match=words):
            build_network(config, TASKS, seed=0)


def test_picture_that_does_not_divide_into_tokens_is_refused(configured: Configured) -> None:
    network = build_network(configured("tiny"), TASKS, seed=0)
    with pytest.raises(ModelError, match="60 px cannot be cut into tokens"):
        network(torch.zeros(1, 3, 60, 60), task="retina")


def test_task_without_head_and_unknown_context_label_are_named(configured: Configured) -> None:
    network = build_network(configured("tiny"), {"retina": TASKS["retina"]}, seed=0)
    with pytest.raises(ModelError, match="unknown head for task 'chestx'"):
        network(PICTURES, task="chestx")
    with pytest.raises(ModelError, match="Did you mean 'Cardiomegaly'"):
        build_network(
            configured("tiny", context_labels={"chestx": ("Cardiomegali",)}), TASKS, seed=0
        )


def test_deeper_evidence_than_transformer_stage_is_refused(configured: Configured) -> None:
    with pytest.raises(ValueError, match="comes before evidence_stage"):
        configured("tiny", encoder={"transformer_stage": 1})
