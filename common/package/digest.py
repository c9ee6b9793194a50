"""One digest over a whole package, by which a changed temperature or threshold is noticed.

It is the SHA-256 of model.json's values in canonical form, without the field ``digest`` itself.
They name the SHA-256 of both array files, so that it is over every file of the package. What MLflow
writes beside them is not part of it: MLflow rewrites its own files when a model is logged or moved.

Whoever changes a package on purpose can write a fitting digest into it. Only a digest that was
noted elsewhere shows that: the run's summary.json, its MLflow tag, an explanation made with it.

Light: no torch.
"""

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from common.messages.digests import text_digest
from common.messages.signing import canonical

DIGEST_FIELD = "digest"


def package_digest(content: bytes) -> str:
    """Return the digest of a package by the bytes of its model.json.

    Spaces, line ends and the order of keys do not count; every value does.

    Raises ValueError where the bytes are no JSON object, a key stands twice in it, as two readers
    might take another one each, or a number is not finite.
    """
    values = json.loads(content, object_pairs_hook=_refuse_repeated)
    if not isinstance(values, dict):
        raise ValueError("model.json must be a JSON object")
    kept: Mapping[str, JsonValue] = {k: v for k, v in values.items() if k != DIGEST_FIELD}
    return text_digest(canonical(kept))


def _refuse_repeated(pairs: Sequence[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in model.json")
    return found
