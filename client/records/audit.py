"""The site's audit log: what was asked, decided and released, in lines that hold on to each other.

A chained log (client/records/chained_log.py). Note the head that ``fovea-site audit verify`` prints
somewhere else from time to time: who may write the log and its head file could write both anew.

Names, shapes, digests and counts only; never a picture, a label, a file name or a patient.
"""

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from client.records.audit_lines import Record, open_log, parsed
from client.records.chained_log import ChainedLog, ChainReport, verify_chain
from common.errors import AuditError
from common.messages.digests import arrays_digest, text_digest
from common.messages.kinds import (
    Answer,
    Evaluation,
    Keys,
    MaskedUpdate,
    Refusal,
    Shares,
    SiteCard,
    Update,
)

_REMEDY = (
    "Nothing leaves this site until a person has looked: run `fovea-site audit verify`, keep both "
    "files, and move them away to begin a new log."
)


class AuditLog(ChainedLog):
    """Appends what happens here; several processes of one user may do so at the same time."""

    def __init__(self, path: Path) -> None:
        """Name the file; it is made with the first record, and readable by its owner alone."""
        super().__init__(path, remedy=_REMEDY)


def verify(path: Path) -> ChainReport:
    """Read a whole log and say what is wrong with it, the first bad line first.

    Raises AuditError when there is no such log.
    """
    return verify_chain(path)


def export(path: Path) -> Iterator[Record]:
    """Yield the records in order. Raises AuditError at the first line that is none."""
    with open_log(path) as (lines, _):
        for number, line in enumerate(lines, start=1):
            record = parsed(line)
            if record is None:
                raise AuditError(
                    f"{path}: line {number} is no record. Run `fovea-site audit verify`."
                )
            yield record


def release_fields(answer: Answer) -> Record:
    """Return what the log says of an answer: never what it holds, only its outline."""
    fields: Record = {"answer": type(answer).__name__.lower()}
    if isinstance(answer, Update | Evaluation):
        fields["num_examples"] = answer.num_examples
        fields["metric_names"] = list[JsonValue](sorted(answer.metrics))
    if isinstance(answer, Update):
        fields["num_steps"] = answer.num_steps
        fields["evaluation_names"] = list[JsonValue](sorted(answer.evaluation))
        fields["arrays"] = len(answer.arrays)
        fields["arrays_size_bytes"] = sum(array.nbytes for array in answer.arrays.values())
        fields["arrays_digest"] = arrays_digest(answer.arrays)
        fields["precision"] = answer.precision
    if isinstance(answer, MaskedUpdate):
        sizes = {name: array.size for name, array in answer.masked.items()}
        fields["masked_sizes"] = dict[str, JsonValue](sizes)
        fields["masked_digest"] = arrays_digest(answer.masked)
        fields["note_digest"] = text_digest(answer.secure_json)
    if isinstance(answer, Keys):
        fields["keys_digest"] = text_digest(answer.keys_json)
    if isinstance(answer, Shares):
        fields["shares_digest"] = text_digest(answer.shares_json)
    if isinstance(answer, SiteCard):
        fields["num_examples"] = answer.num_examples
        fields["num_val"] = answer.num_val
        fields["card_digest"] = text_digest(answer.data_card_json)
    if isinstance(answer, Refusal):
        fields["code"] = str(answer.code)
        fields["reason"] = answer.reason
    return fields
