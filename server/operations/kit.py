"""A start-up kit: everything a hospital needs to join, and nothing secret."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, JsonValue

from common.errors import ConfigError
from common.messages.certificates import certificate_fingerprint, line_fingerprint
from server.operations.federation_file import Federation, FederationSite, Preparation

AUTHORITY = "ca.crt"
RUN_KEYS = "run-keys.pub"
CONNECTOR = "connector.yaml"


@dataclass(frozen=True)
class Pins:
    """What every site holds on to: who may vouch for the server, and who may sign runs."""

    authorities: tuple[x509.Certificate, ...]  # the current one first
    run_keys: tuple[str, ...]  # public, likewise

    @property
    def authorities_pem(self) -> bytes:
        """The certificates as a file's content."""
        return b"".join(one.public_bytes(Encoding.PEM) for one in self.authorities)

    @property
    def run_keys_text(self) -> bytes:
        """The run keys as a file's content."""
        return "".join(f"{line}\n" for line in self.run_keys).encode()


def kit_files(
    federation: Federation, site: FederationSite, *, pins: Pins, policy: str
) -> dict[str, bytes]:
    """Return the files of a site's kit by name: the same for the same arguments, byte for byte."""
    return {
        AUTHORITY: pins.authorities_pem,
        RUN_KEYS: pins.run_keys_text,
        CONNECTOR: _connector_text(federation, site).encode(),
        "site.yaml": _site_text(federation, site).encode(),
        "policy.yaml": policy.encode(),
        "README.md": _instructions(federation, site, pins).encode(),
    }


def read_policy_template(path: Path) -> str:
    """Return the text of the strict policy that kits start from. Raises ConfigError naming it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: the strict policy for the kits cannot be read ({error}). Set `policy` of "
            "federation.yaml to configs/policies/strict.yaml of Fovea's sources."
        ) from error


def differing_files(folder: Path, files: Mapping[str, bytes]) -> tuple[str, ...]:
    """Return the names of a kit's files that are missing or not as they would be made now."""

    def content(name: str) -> bytes | None:
        path = folder / name
        return path.read_bytes() if path.is_file() else None

    return tuple(name for name, expected in files.items() if content(name) != expected)


def _connector_text(federation: Federation, site: FederationSite) -> str:
    return f"""\
# The network half of this site, read by the connector. Restart it after a change.

site: {site.name}
federation: {federation.name}
coordinator: {federation.endpoint}  # host:port; the only address this site calls
metrics_port: 9464               # Prometheus, on 127.0.0.1 only; 0: none
poll_s: 3.0                      # longest pause between two looks for a message
certificate_warning_days: 30     # warn so long before the coordinator's certificate expires
"""


def _site_text(federation: Federation, site: FederationSite) -> str:
    preparation = federation.preparation
    return f"""\
# This site as its hospital describes it, read by the trainer. No value here is ever taken from
# the network. Fill in `data` and `source`, then run `fovea-site prepare`.

name: {site.name}
federation: {federation.name}
task: {site.task}
labels: {_inline(_labels(preparation, site.task))}  # null: all of the task's labels

data: null                       # folder that the source's relative paths start from
source: null                     # FILL IN: where the pictures are, one of the forms below.
# NIH ChestX-ray14 in its own layout:
#   source: {{kind: nih, table: Data_Entry_2017.csv, images: images, boxes: BBox_List_2017.csv}}
# IDRiD in its official folders:
#   source: {{kind: idrid, root: IDRiD, part: grading, mapping: labels/idrid.yaml}}
# EBHI-Seg in its own folders:
#   source: {{kind: ebhi, root: EBHI-SEG, mapping: labels/ebhi.yaml}}
# Any table of pictures; the columns that it has not are null:
#   source:
#     kind: manifest
#     table: pictures.csv        # one picture per row
#     images: null               # folder that picture names start from; null: the table's own
#     columns: {{image: file, labels: finding, patient: patient_id, site: null, roi_mask: null,
#               roi_boxes: null, roi_kind: null, official_split: null}}
#     where: {{}}                  # column: [values] that belong to this site
#     label_separator: "|"
#     mapping: labels.yaml       # beside this file: the hospital's words -> the task's labels
# For a trial without any patient's picture, generated ones with known lesions:
#   source: {{kind: phantom, patients: 200, pictures_per_patient: 1, scanner_strength: 0.5,
#            lesion_contrast: 1.0, roi_fraction: 0.5, marker_agreement: null, prevalence: null}}

preparation:                     # agreed by the federation: shards prepared otherwise do not fit
  image_size_px: {preparation.image_size_px}
  seed: {preparation.seed}                     # of the split by patient
  split: {_inline(preparation.split)}  # shares of this site's patients
  preprocess:
{_block(preparation.preprocess[site.task], indent=4)}
  duplicates:
{_block(preparation.duplicates, indent=4)}

machine:                         # what of this machine training may use
  device: auto                   # auto | cpu | cuda
  processes: 1                   # one per GPU; more than one trains data-parallel
  num_threads: 4                 # CPU threads per process

limits:                          # what one request may take; beyond it the door closes
  request_mb: 512                # size of a request or an answer
  request_s: 14400.0             # time to train
  min_free_disk_mb: 2048         # with less, the site says that it is unavailable
"""


def _labels(preparation: Preparation, task: str) -> JsonValue:
    labels = preparation.labels[task]
    return None if labels is None else list(labels)


def _inline(value: BaseModel | JsonValue) -> str:
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, ensure_ascii=False)  # JSON is YAML on one line


def _block(section: BaseModel, *, indent: int) -> str:
    values = section.model_dump(mode="json").items()
    return "\n".join(f"{' ' * indent}{key}: {_inline(value)}" for key, value in values)


def _instructions(federation: Federation, site: FederationSite, pins: Pins) -> str:
    host, _, port = federation.endpoint.rpartition(":")
    return f"""\
# Joining the federation "{federation.name}" as "{site.name}"

This folder holds nothing secret. It tells your site where the coordinator is, whose certificate to
accept and whose signature to obey. Your site makes its own private keys; they never leave it.

What the site needs of your network: one outgoing connection, TCP to {host} port {port} (TLS).
Nothing connects to it from outside. Its clock must be right to a few minutes.

1. Install Fovea as the runbook says (deploy/README.md of its sources). On a server two users run
   it, one for the pictures and one for the network; on a workstation yours will do.

2. Compare two fingerprints **by telephone** with the coordinator, on a number you knew before.
   Compute them yourself from the files here; do not only read them off this page:

       openssl x509 -in {AUTHORITY} -noout -fingerprint -sha256
       sed -n 1p {RUN_KEYS} | sha256sum

   Certificate authority
{_listed(map(certificate_fingerprint, pins.authorities))}
   Run key
{_listed(map(line_fingerprint, pins.run_keys))}
   If one differs, stop: somebody may have changed this folder on its way.

3. Make the site from this folder. It makes your keys and overwrites nothing:

       fovea-site --home /var/lib/fovea-site init --kit THIS-FOLDER

   Add `--trainer-user` and `--connector-user` when two users run it.

4. Send `admission.json` from the site's folder to the coordinator. It holds public keys only. Read
   its fingerprint to the coordinator **by telephone**, who compares it with what has arrived:

       sha256sum admission.json

5. Read `trainer/policy.yaml`: what your hospital allows. It starts strict: a person approves every
   run. Fill in `data` and `source` of `trainer/site.yaml`.

6. Prepare the pictures and look at the findings; every finding says what to do:

       fovea-site prepare
       fovea-site check

7. Start it: the two systemd units of deploy/ on a server, `fovea-site run` on a workstation. Then
   `fovea-site status` says whether the site is connected and admitted.

8. When the coordinator launches a run, `fovea-site waiting` shows what it would do, and
   `fovea-site approve` lets it. `fovea-site pause` stops taking part at any time.

When the coordinator sends a new kit (its keys or address were renewed), compare fingerprints as in
step 2, run `fovea-site update-pins NEW-FOLDER`, and restart both units.
"""


def _listed(fingerprints: Iterable[str]) -> str:
    return "".join(f"   - `{fingerprint}`\n" for fingerprint in fingerprints)
