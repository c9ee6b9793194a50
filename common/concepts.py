"""Signs that clinicians name, beside the diagnosis: which each task knows, and what shows them.

Light. A sign is in a task's list only if a source that can be read here teaches it: with a region
of its own, a word of a label table, or a phantom that draws it.

Left out because nothing teaches them: venous beading and intraretinal microvascular abnormalities
(fundus); anything finer than the findings themselves (chest); stroma, mitoses, and atypia of nuclei
apart from that of glands (histology: the classes of EBHI-Seg and the phantoms' tumour always have
both, so that no head could learn to tell them apart).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import nan


@dataclass(frozen=True)
class Concept:
    """One sign: its name, how a sentence says it, and which regions outline it."""

    name: str
    title: str
    regions: tuple[str, ...]  # region names that outline it, in the words of the sources
    findings: tuple[str, ...] = ()  # of a multi-label task: a lesion region of these outlines it


CONCEPTS: dict[str, tuple[Concept, ...]] = {
    "retina": (
        Concept("microaneurysm", "microaneurysms", ("microaneurysm",)),
        Concept("haemorrhage", "haemorrhages", ("haemorrhage",)),
        Concept("hard_exudate", "hard exudates", ("hard_exudate",)),
        Concept("soft_exudate", "soft exudates", ("soft_exudate",)),
        # Outlined by phantoms alone.
        Concept("neovascularisation", "new vessels", ("neovascularisation",)),
    ),
    "chestx": (
        # An area denser than lung: what ground glass, consolidation and pneumonia have in common.
        Concept(
            "opacity",
            "an opacity of the lung",
            ("consolidation",),
            ("Consolidation", "Infiltration", "Pneumonia"),
        ),
        Concept("consolidation", "consolidation", ("consolidation",), ("Consolidation",)),
        Concept("effusion", "pleural fluid", ("fluid",), ("Effusion",)),
        Concept("mass", "a mass", ("mass",), ("Mass",)),
        Concept("nodule", "a nodule", ("nodule",), ("Nodule",)),
    ),
    "pathoscan": (
        # Crowded, irregular glands with large, unequal nuclei.
        Concept(
            "atypical_glands",
            "atypical glands",
            ("tumour", "Low-grade IN", "High-grade IN", "Adenocarcinoma"),
        ),
        # Glands whose lumen and order are kept.
        Concept("intact_glands", "intact glands", ("Normal", "Polyp", "region_mask_normal")),
    ),
}


def concepts_of(task: str, names: Sequence[str]) -> tuple[Concept, ...]:
    """Return the named concepts of a task, in that order; KeyError for one that it has not."""
    known = {concept.name: concept for concept in CONCEPTS.get(task, ())}
    return tuple(known[name] for name in names)


def shows(concept: Concept, *, region: str, finding: str | None) -> bool:
    """Say whether a region outlines a concept.

    Args:
        concept: The sign.
        region: The region's name.
        finding: The finding that a lesion region explains, None where it is not one finding.
    """
    return region in concept.regions or finding in concept.findings


def concept_targets(
    concepts: Sequence[Concept],
    *,
    regions: Sequence[tuple[str, str | None]],
    outlined: Collection[str],
    signs: Sequence[tuple[str, bool]],
) -> tuple[float, ...]:
    """Return one target per concept: 1 there, 0 absent, NaN unknown.

    A region that shows a concept asserts it, whatever else is said. Without one it is absent
    where all its places would have been outlined, otherwise what the table's words say.

    Args:
        concepts: (K,) of the task.
        regions: Name and finding of each region of the picture that has a pixel.
        outlined: Names of the concepts of which every place is outlined in this picture.
        signs: Concepts that the table's words assert or deny; asserting prevails.
    """
    targets = []
    for concept in concepts:
        said = [present for name, present in signs if name == concept.name]
        if any(shows(concept, region=name, finding=finding) for name, finding in regions):
            targets.append(1.0)
        elif concept.name in outlined:
            targets.append(0.0)
        else:
            targets.append(float(any(said)) if said else nan)
    return tuple(targets)
