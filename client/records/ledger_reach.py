"""How far a site's privacy ledger has reached, kept where it does not go with the ledger.

The head beside a ledger finds lines that are missing; it does not find that both are gone. So the
number and hash of the last record also lie in the state folder, written after each record and
before anything leaves.
"""

import json
from pathlib import Path

from client.home.ownership import as_owner, make_folder
from client.records.audit_lines import EMPTY, Head
from common.errors import LedgerError
from common.files.whole_file import read_plain, write_whole
from common.messages.signing import canonical

_MAX_BYTES = 1024
_REMEDY = (
    "Nothing leaves this site until a person has looked. Bring back the file and the ledger from "
    "the backup that holds the latest entries. Only where these are lost for good, whoever answers "
    "for the site's privacy may take the file away: what was spent before then counts no more."
)


def note_reach(path: Path, head: Head) -> None:
    """Write that a ledger has reached this record; when this returns it outlasts a power cut.

    Raises OSError for a full disk.
    """
    with as_owner(path.parent):
        make_folder(path.parent)
        content = canonical({"count": head.count, "hash": head.hash})
        write_whole(path, content.encode() + b"\n", mode=0o600)


def read_reach(path: Path) -> Head:
    """Return the record that a ledger has reached at least; an empty head where none was noted.

    Raises LedgerError when the file is damaged or cannot be read.
    """
    try:
        content = json.loads(read_plain(path, at_most=_MAX_BYTES))
        count, noted = content["count"], content["hash"]
        if type(count) is not int or count < 1 or not isinstance(noted, str):
            raise TypeError("of other types")
    except FileNotFoundError:
        return EMPTY
    except OSError as error:
        raise LedgerError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LedgerError(
            f"{path}: does not say how far a ledger has reached. {_REMEDY}"
        ) from error
    return Head(count, noted)
