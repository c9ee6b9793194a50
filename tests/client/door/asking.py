"""How tests ask a desk."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from client.desk.desk import Desk
from common.messages.kinds import Refusal, Request, TrainRequest
from common.messages.manifest import SignedManifest
from common.messages.signing import PrivateKey
from hospital import CountingTrainer, Hospital


def ask(desk: Desk, content: bytes) -> bytes:
    answer = desk.answer(content, is_wanted=lambda: True)
    assert answer is not None
    return answer


def refusal(hospital: Hospital, desk: Desk, content: bytes, request: Request) -> Refusal:
    answer = hospital.opened(ask(desk, content), request)
    assert isinstance(answer, Refusal), answer
    return answer


def meanwhile(
    hospital: Hospital,
    desk: Desk,
    trainer: CountingTrainer,
    decide: Callable[[Hospital, SignedManifest], None],
) -> tuple[TrainRequest, SignedManifest, object]:
    """Ask for a round, decide while it is trained, and return what came."""
    request, manifest = hospital.train_request(), hospital.approved()
    trainer.may_go_on.clear()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, desk, hospital.sealed(request, manifest))
        assert trainer.has_begun.wait(timeout=10)
        decide(hospital, manifest)
        trainer.may_go_on.set()
        return request, manifest, hospital.opened(asked.result(timeout=10), request)


def by_another_key(hospital: Hospital) -> tuple[bytes, Request]:
    request = hospital.train_request()
    return hospital.sealed(request, hospital.approved(), key=PrivateKey.new()), request
