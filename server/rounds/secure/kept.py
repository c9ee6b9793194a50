"""The round of the secure sum that is under way, on the disk before any site is asked to train.

A site masks once for a round and gives one kind of share for each site of it. A coordinator that
breaks off in between must therefore go on with exactly the round that it opened.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from common.config.run import Section
from common.errors import RunError
from common.files.whole_file import write_whole
from common.messages.manifest import RunName, Slug
from common.secure_sum.statements import (
    Bundle,
    MemberKey,
    MemberList,
    RoundContext,
    RoundOpening,
    Unmasking,
    roster_digest,
)


class OpenedRound(Section):
    """A round that can be summed: whose keys there are, and what they shared out."""

    run: RunName
    server_round: Annotated[int, Field(ge=1)]
    context: RoundContext  # what its sites are asked alike
    members: tuple[MemberKey, ...]
    bundles: Mapping[Slug, Bundle]  # of the sites that make up the round
    unmasking: Unmasking | None = None  # as sites were, or may have been, asked; None: not yet

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites of the round, in the order of names."""
        return tuple(sorted(self.bundles))

    @property
    def tasks(self) -> dict[str, str]:
        """The task of every member."""
        return {member.site: member.task for member in self.members}

    @property
    def member_list(self) -> MemberList:
        """Among whom the round's secrets were shared out."""
        return MemberList(members=self.members)

    def opening(self, site: str | None = None) -> RoundOpening:
        """Return what a site needs to mask; without a name what every site sees alike."""
        letters = {
            sender: bundle.shares[site]
            for sender, bundle in sorted(self.bundles.items())
            if site is not None and sender != site
        }
        keys = tuple(self.bundles[sender].key for sender in self.sites)
        return RoundOpening(context=self.context, members=self.members, keys=keys, shares=letters)

    @property
    def roster_digest(self) -> str:
        """What every site of the round signs."""
        return roster_digest(self.opening())


class KeptFile:
    """Where the round under way lies."""

    def __init__(self, path: Path, *, run: str) -> None:
        """Name the file; nothing is read or written."""
        self._path, self._run = path, run

    def write(self, opened: OpenedRound) -> None:
        """Keep a round; when this returns it outlasts a power cut."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, opened.model_dump_json().encode(), mode=0o600)

    def read(self) -> OpenedRound | None:
        """Return the round that was kept last, None where none of this run was.

        Raises RunError for a file that cannot be read: the round may have been asked for.
        """
        try:
            opened = OpenedRound.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise RunError(
                f"{self._path}: cannot be read. Restore it from a copy; without it the round that "
                "was begun cannot be opened, and deleting it gives that round up."
            ) from error
        return opened if opened.run == self._run else None
