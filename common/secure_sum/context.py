"""The context of a round: what its sites are asked alike, from the model that they are sent."""

from common.messages.digests import arrays_digest
from common.messages.kinds import Arrays
from common.model.layers import group_of
from common.secure_sum.statements import RoundContext


def round_context(
    model: Arrays, *, run_digest: str, server_round: int, evaluates: bool, proximal_mu: float
) -> RoundContext:
    """Return the context of a round that starts from a model: trunk and every task's head.

    Raises ModelError for an array that is of neither.
    """
    return RoundContext(
        run_digest=run_digest,
        server_round=server_round,
        evaluates=evaluates,
        proximal_mu=proximal_mu,
        models=model_digests(model),
    )


def model_digests(arrays: Arrays) -> dict[str, str]:
    """Return the digest of the arrays of each group that is among them, ``trunk`` and tasks.

    Raises ModelError for an array that is of neither.
    """
    groups = sorted({group_of(name) for name in arrays})
    return {
        group: arrays_digest({n: a for n, a in arrays.items() if group_of(n) == group})
        for group in groups
    }
