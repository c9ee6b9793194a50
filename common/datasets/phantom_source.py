"""A source of phantom pictures: a site's patients, its scanner, and outlines for some of them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from common.concepts import concepts_of, shows
from common.config.run import PhantomSource
from common.datasets.phantom import PHANTOMS
from common.datasets.phantom.case import PhantomCase, Scanner, Shortcut, scanner_for
from common.datasets.phantom.chest import NAMES
from common.datasets.phantom.draw import LARGEST_PX, SMALLEST_PX
from common.datasets.phantom.fundus_lesions import KINDS
from common.datasets.phantom.histology import TUMOUR
from common.datasets.record import EVERY_POSITIVE_LABEL, Case, CaseRegion, Exclusion
from common.errors import ConfigError
from common.tasks import Task

# How the coordinator's own sets are called, and no site: theirs tell also where anatomy and marker
# are, which a hospital would not know.
REFERENCE = "reference-"

USUAL_SIZE_PX = 256  # until preparation asks for another

# Region names that phantoms of a task may show, and the finding without which they do not.
DRAWN: Mapping[str, Mapping[str, str | None]] = {
    "chestx": {name: finding for finding, name in NAMES.items()},
    "retina": {name: None for name, *_ in KINDS},
    "pathoscan": {TUMOUR: None},
}


@dataclass(frozen=True)
class PhantomTable:
    """Patients that are drawn when they are asked for, always the same."""

    config: PhantomSource
    task: Task
    site: str
    seed: int  # of this site's patients: two sites never draw the same patient
    scanner: Scanner
    outlined: frozenset[int]  # numbers of the patients whose lesion masks are given
    size_px: int

    def __len__(self) -> int:
        """Return the number of pictures."""
        return self.config.patients * self.config.pictures_per_patient

    @property
    def exclusions(self) -> Sequence[Exclusion]:
        """Nothing is ever ruled out."""
        return ()

    def patient(self, index: int) -> str:
        """Return the patient of a picture."""
        return f"{self.site}-{self._number(index)}"

    def targets(self, index: int) -> tuple[float, ...]:
        """Return the target vector of a picture; it is drawn for that."""
        return self.draw(index).targets

    def draw(self, index: int) -> PhantomCase:
        """Draw a picture with all that is known of it, its outlines and healed twin included.

        Raises:
            ConfigError: The site's source asks for what no phantom can show.
        """
        agreement = self.config.marker_agreement
        try:
            return PHANTOMS.get(self.task.name)(
                task=self.task,
                index=index,
                patient=self._number(index),
                seed=self.seed,
                size_px=self.size_px,
                scanner=self.scanner,
                shortcut=None if agreement is None else Shortcut(agreement=agreement),
                lesion_contrast=self.config.lesion_contrast,
                prevalence=self.config.prevalence,
            )
        except ConfigError as error:
            raise ConfigError(f"phantoms of {self.site}: {error}") from error

    def load(self, index: int) -> Case:
        """Draw a picture, with its lesion masks if its patient's lesions are outlined."""
        drawn = self.draw(index)
        is_outlined = self._number(index) in self.outlined
        regions = [
            CaseRegion(
                kind="lesion_mask",
                name=lesion.name,
                label=self.task.logit_names.index(lesion.label),
                mask=lesion.mask,
            )
            for lesion in drawn.lesions
            if is_outlined and lesion.mask.any()
        ]
        if self.site.startswith(REFERENCE):
            regions += _layout(drawn)
        return Case(
            image=drawn.image,
            patient=self.patient(index),
            site=self.site,
            targets=drawn.targets,
            regions=tuple(regions),
            row=f"phantom {self.site} picture {index + 1}",
            outlined=self._drawable() if is_outlined else (),
            signs=self._signs(drawn) if self.task.kind == "multi-label" else (),
        )

    def _drawable(self) -> tuple[str, ...]:
        """Return the concepts that a phantom of the run's labels may show."""
        drawn = [
            name
            for name, label in DRAWN[self.task.name].items()
            if label is None or label in self.task.labels
        ]
        return tuple(
            concept.name
            for concept in concepts_of(self.task.name, self.task.concepts)
            if any(shows(concept, region=name, finding=None) for name in drawn)
        )

    def _signs(self, drawn: PhantomCase) -> tuple[tuple[str, bool], ...]:
        """Return what findings tell of the concepts: they are known without an outline."""
        names = [lesion.name for lesion in drawn.lesions]
        present = {
            concept.name: any(shows(concept, region=name, finding=None) for name in names)
            for concept in concepts_of(self.task.name, self.task.concepts)
        }
        return tuple((name, present[name]) for name in self._drawable())

    def identity(self) -> str:
        """Return what decides every picture."""
        return repr((self.config.model_dump_json(), self.task, self.site, self.seed, self.size_px,
                     self.scanner))  # fmt: skip

    def drawn_at(self, size_px: int) -> "PhantomTable":
        """Return the same patients drawn at another size.

        Raises:
            ConfigError: Phantoms cannot be drawn at this size.
        """
        if not SMALLEST_PX <= size_px <= LARGEST_PX:
            raise ConfigError(
                f"{self.site} has phantoms, which are drawn at {SMALLEST_PX} to {LARGEST_PX} "
                f"pixels; data.image_size_px is {size_px}. Change it, and model.image_size_px "
                "with it."
            )
        return replace(self, size_px=size_px)

    def _number(self, index: int) -> int:
        return index // self.config.pictures_per_patient


def _layout(drawn: PhantomCase) -> list[CaseRegion]:
    """Return anatomy and marker as regions, where there are any."""
    known = (
        CaseRegion(
            kind="anatomy_mask", name="anatomy", label=EVERY_POSITIVE_LABEL, mask=drawn.anatomy
        ),
        CaseRegion(
            kind="marker_mask", name="marker", label=EVERY_POSITIVE_LABEL, mask=drawn.marker
        ),
    )
    return [region for region in known if region.mask.any()]


def open_phantom(
    config: PhantomSource,
    *,
    task: Task,
    site: str,
    seed: int,
    data_root: Path | None = None,
    config_root: Path | None = None,
) -> PhantomTable:
    """Return a site's phantom patients.

    Args:
        config: How many patients, how easy, how many outlined.
        task: What is drawn.
        site: Name of the site; it decides patients and scanner together with the seed.
        seed: Of the run.
        data_root: Not read; other sources need it.
        config_root: Not read; other sources need it.

    Raises:
        ConfigError: There are no phantoms of this task.
    """
    del data_root, config_root
    if task.name not in PHANTOMS:
        raise ConfigError(f"no phantoms of task {task.name}; known: {', '.join(PHANTOMS)}.")
    digest = hashlib.sha256(f"{seed}\x1fphantom\x1f{site}".encode()).digest()
    own_seed = int.from_bytes(digest[:4], "big")
    order = np.random.default_rng(own_seed).permutation(config.patients)
    return PhantomTable(
        config=config,
        task=task,
        site=site,
        seed=own_seed,
        scanner=scanner_for(site, strength=config.scanner_strength, seed=seed),
        outlined=frozenset(order[: round(config.roi_fraction * config.patients)].tolist()),
        size_px=USUAL_SIZE_PX,
    )
