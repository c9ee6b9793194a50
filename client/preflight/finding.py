"""What a check found, and what to do about it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. Holds no patient, picture file or label."""

    subject: str  # what was looked at: "policy.yaml", "clock"
    status: Status
    found: str
    remedy: str  # a command or a sentence; empty where all is well


def ok(subject: str, found: str) -> Finding:
    """Return that all is well."""
    return Finding(subject, "ok", found, "")


def warning(subject: str, found: str, remedy: str) -> Finding:
    """Return something that works, but not for long or not as well as it could."""
    return Finding(subject, "warning", found, remedy)


def error(subject: str, found: str, remedy: str) -> Finding:
    """Return something that keeps the site from working, or from being safe."""
    return Finding(subject, "error", found, remedy)


def below(text: object, folder: Path) -> str:
    """Return a message with paths told from a folder on, so that it can be shown to others."""
    return str(text).replace(f"{folder}/", "")
