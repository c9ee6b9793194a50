"""The data card: what a shard holds, in counts alone, without a file name or a patient."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter, ValidationError

from common.errors import DataError


@dataclass(frozen=True)
class ClassCount:
    """How often one class occurs in one part."""

    name: str
    pictures: int
    patients: int


@dataclass(frozen=True)
class SignCount:
    """Of how many pictures of one part it is known whether they show a sign, and how many do."""

    name: str  # of common.concepts
    known_pictures: int
    known_patients: int
    shown_pictures: int
    shown_patients: int


@dataclass(frozen=True)
class PartCount:
    """What one part holds."""

    name: str
    pictures: int
    patients: int
    classes: tuple[ClassCount, ...]
    lesion_pictures: int  # with at least one lesion region
    unnamed_pictures: int = 0  # whose table names no patient: each counts as a patient of its own
    # In the task's order; empty on cards from before signs were counted.
    signs: tuple[SignCount, ...] = ()


@dataclass(frozen=True)
class RegionCount:
    """Regions of one kind."""

    kind: str
    regions: int
    pictures: int
    mean_area: float  # share of the picture that a region covers, [0, 1]


@dataclass(frozen=True)
class PixelRange:
    """Sides of the pictures before they were resized."""

    smallest: int
    median: int
    largest: int


_UNTOLD = PixelRange(0, 0, 0)


@dataclass(frozen=True)
class DuplicateCount:
    """What the comparison of all pictures found."""

    exact: int  # pictures whose pixels equal an earlier one's
    near: int  # pairs of near duplicates
    shared_pictures: int  # groups that belong to more than one patient
    straddling_pictures: int  # groups in more than one official split
    straddling_patients: int  # patients in more than one official split
    conflicts: int  # pictures whose equal carries another label


@dataclass(frozen=True)
class DataCard:
    """What a shard holds. Counts only; it may be shown to whoever a site's policy lets see them."""

    task: str
    image_size_px: int
    pictures: int
    patients: int
    parts: tuple[PartCount, ...]
    regions: tuple[RegionCount, ...]
    width_px: PixelRange
    height_px: PixelRange
    exclusions: Mapping[str, int]  # reason → rows or pictures left out
    duplicates: DuplicateCount
    notes: tuple[str, ...]

    @property
    def is_totals_only(self) -> bool:
        """Whether the site shows how many pictures and patients it holds, and nothing else."""
        return not self.parts

    @property
    def signs(self) -> tuple[SignCount, ...]:
        """Return how often each sign is known and shown in all parts; a patient is in one part."""
        names = dict.fromkeys(sign.name for part in self.parts for sign in part.signs)
        return tuple(
            _summed([sign for part in self.parts for sign in part.signs if sign.name == name])
            for name in names
        )

    def totals_only(self) -> "DataCard":
        """Return a card that tells how many pictures and patients there are, and nothing else."""
        return DataCard(
            task=self.task,
            image_size_px=self.image_size_px,
            pictures=self.pictures,
            patients=self.patients,
            parts=(),
            regions=(),
            width_px=_UNTOLD,
            height_px=_UNTOLD,
            exclusions={},
            duplicates=DuplicateCount(0, 0, 0, 0, 0, 0),
            notes=(),
        )

    def as_dict(self) -> dict[str, object]:
        """Return the card as plain JSON values."""
        plain = json.loads(json.dumps(asdict(self)))
        return {str(key): value for key, value in plain.items()}

    def as_json(self) -> str:
        """Return the card as indented JSON."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)

    def as_table(self) -> str:
        """Return the card as Markdown."""
        return "\n\n".join(block for block in _blocks(self) if block) + "\n"


def card_from_dict(values: Mapping[str, object]) -> DataCard:
    """Return the card that ``as_dict`` described.

    Raises:
        DataError: The values are not those of a card of this version.
    """
    try:
        return TypeAdapter(DataCard).validate_python(values)
    except ValidationError as error:
        raise DataError(
            f"this is no data card of this version ({error.error_count()} values differ); "
            "prepare the shard again."
        ) from error


def _blocks(card: DataCard) -> list[str]:
    if card.is_totals_only:
        return [
            f"## Data card: {card.task}",
            f"{card.pictures} pictures of {card.patients} patients, stored at "
            f"{card.image_size_px}×{card.image_size_px} px. The site shows no more than that.",
        ]
    names = [part.name for part in card.parts]
    classes = [
        [
            count.name,
            *(f"{p.classes[row].pictures} ({p.classes[row].patients})" for p in card.parts),
        ]
        for row, count in enumerate(card.parts[0].classes)
    ]
    totals = ["**all**", *(f"{part.pictures} ({part.patients})" for part in card.parts)]
    lesions = ["with lesion region", *(str(part.lesion_pictures) for part in card.parts)]
    w, h, found = card.width_px, card.height_px, card.duplicates
    return [
        f"## Data card: {card.task}",
        f"{card.pictures} pictures of {card.patients} patients, stored at "
        f"{card.image_size_px}×{card.image_size_px} px. Originals: width {w.smallest}–{w.largest} "
        f"(median {w.median}), height {h.smallest}–{h.largest} (median {h.median}) px.",
        _table(["pictures (patients)", *names], [*classes, totals, lesions]),
        _table(["sign: shown of known pictures (patients)", *names], _sign_rows(card)),
        _table(
            ["regions", "number", "pictures", "mean area"],
            [
                [r.kind, str(r.regions), str(r.pictures), f"{100 * r.mean_area:.1f} %"]
                for r in card.regions
            ],
        ),
        f"Duplicates: {found.exact} exact copies, {found.near} near pairs; "
        f"{found.shared_pictures} pictures under several patients, "
        f"{found.straddling_pictures} pictures and {found.straddling_patients} patients in several "
        f"official splits, {found.conflicts} pictures with conflicting labels.",
        _table(["left out", "number"], [[why, str(n)] for why, n in card.exclusions.items()]),
        "\n".join(f"- {note}" for note in card.notes),
    ]


def _summed(of_parts: Sequence[SignCount]) -> SignCount:
    return SignCount(
        name=of_parts[0].name,
        known_pictures=sum(sign.known_pictures for sign in of_parts),
        known_patients=sum(sign.known_patients for sign in of_parts),
        shown_pictures=sum(sign.shown_pictures for sign in of_parts),
        shown_patients=sum(sign.shown_patients for sign in of_parts),
    )


def _sign_rows(card: DataCard) -> list[list[str]]:
    """Return, per sign, how many pictures and patients show it of those where it is known."""
    counts = [{sign.name: sign for sign in part.signs} for part in card.parts]
    signs = dict.fromkeys(name for of_part in counts for name in of_part)
    return [[name, *(_shown(of_part.get(name)) for of_part in counts)] for name in signs]


def _shown(sign: SignCount | None) -> str:
    if sign is None:
        return "not counted"
    return (
        f"{sign.shown_pictures} of {sign.known_pictures} "
        f"({sign.shown_patients} of {sign.known_patients})"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
