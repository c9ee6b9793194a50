"""A federation of three tiny sites, from nothing to waiting for a run."""

from collections.abc import Collection
from pathlib import Path

from harness.federation import Federation, federation_folder

TRIAL = Path(__file__).with_name("trial.yaml")
TASKS = {"north": "chestx", "valley": "retina", "lakeside": "pathoscan"}
PICTURES = {
    "kind": "phantom",
    "patients": 40,
    "pictures_per_patient": 1,
    "scanner_strength": 0.5,
    "lesion_contrast": 1.5,
    "roi_fraction": 0.5,
    "marker_agreement": None,
    "prevalence": None,
}


def start_federation(
    sites: dict[str, str] | None = None,
    *,
    is_isolated: bool = False,
    start: bool = True,
    patients: int | None = None,
    bystanders: Collection[str] = (),
) -> Federation:
    """Return a federation whose sites are enrolled, prepared, admitted and (if asked) started.

    Bystanders are connected and nothing more: they have no pictures and no trainer runs there.
    """
    tasks = sites or TASKS
    federation = Federation(federation_folder(), tasks, TRIAL, is_isolated=is_isolated)
    try:
        federation.provision()
        for name, task in tasks.items():
            labels = ["Effusion", "Mass", "Nodule"] if task == "chestx" else None
            pictures = PICTURES if patients is None else PICTURES | {"patients": patients}
            federation.add_site(name, pictures, prepares=name not in bystanders, labels=labels)
        federation.serve()
        for name in tasks:
            federation.admit(name)
            site = federation.sites[name]
            if start and name in bystanders:
                site.connector.start()
            elif start:
                site.start()
    except BaseException:
        print(federation.logs())  # noqa: T201 - the only trace of what went wrong
        federation.close()
        raise
    return federation
