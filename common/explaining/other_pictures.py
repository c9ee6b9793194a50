"""Maps of other pictures: what the stability of a map is held against.

Structural similarity means little by itself: two maps of a few small spots are alike wherever the
spots lie. A map follows its picture only if small changes leave it more alike than another picture
does.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from common.explaining.picture_file import PreparedPicture
from common.explaining.question import Question
from common.package.loading import network_input

MOST = 4  # pictures that one map is held against
# So that each of them still has as many others.
TAKEN = MOST + 1


class OtherPictures:
    """A few pictures of one task, prepared; each of their maps is made once, when first asked."""

    def __init__(self, pictures: Sequence[PreparedPicture], *, words: str) -> None:
        """Take the pictures; one that is there twice counts once.

        Args:
            pictures: Of one task, prepared alike.
            words: Whose they are, fit for "the maps of …".
        """
        self.words = words
        self._images = {one.sha256: network_input(one.image[None]) for one in pictures}
        self._maps: dict[tuple[str, int, str], Tensor | None] = {}

    def is_alone(self, asked: Question) -> bool:
        """Say whether there is no picture but the one asked about."""
        return not self._images.keys() - {asked.sha256}

    def maps(self, asked: Question, method: str) -> Tensor:
        """Return a method's maps (N, S, S) of at most ``MOST`` pictures but the one asked about.

        A picture that the method cannot explain is left out: this is about the others.
        """
        found = [
            values
            for sha256 in self._images
            if sha256 != asked.sha256 and (values := self._map(asked, method, sha256)) is not None
        ]
        return (
            torch.cat(found[:MOST]) if found else asked.image.new_zeros(0, *asked.image.shape[2:])
        )

    def _map(self, asked: Question, method: str, sha256: str) -> Tensor | None:
        key = (method, asked.logit, sha256)
        if key not in self._maps:
            image = self._images[sha256].to(asked.image.device)
            try:
                self._maps[key] = replace(asked, image=image).saliency(method).detach()
            except MemoryError:
                raise
            except Exception:  # said on that picture's own page
                self._maps[key] = None
        return self._maps[key]
