"""Checks what no schema knows: trainers have no network, connectors no pictures, in every form.

Run by validate.sh; prints each rule that is broken, exit 1 if any is.
"""

import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
TRAINER_FOLDER = "/var/lib/fovea-site/trainer"
# Without the first run/ silently loses its group bit, and the connector never reaches the socket.
_SETUP_NEEDS = {"FSETID", "SETUID", "SETGID"}


def main() -> None:
    """Check every file."""
    broken = [*_compose(), *_systemd(), *_kubernetes()]
    for line in broken:
        sys.stderr.write(f"{line}\n")
    sys.exit(1 if broken else 0)


def _compose() -> Iterator[str]:
    for path in sorted((HERE / "compose").glob("*.yaml")):
        for name, service in yaml.safe_load(path.read_text())["services"].items():
            if path.name == "site.gpu.yaml":
                continue
            place = f"compose/{path.name}: {name}"
            targets = [volume.split(":")[1] for volume in service.get("volumes", [])]
            if name.endswith(("trainer", "setup")) and service.get("network_mode") != "none":
                yield f"{place} must have network_mode: none"
            if name.endswith("connector") and any(
                TRAINER_FOLDER.startswith(target) for target in targets
            ):
                yield f"{place} must not mount the trainer's folder"
            if name.endswith("trainer") and any(target.endswith("connector") for target in targets):
                yield f"{place} must not mount the connector's folder"
            if not service.get("read_only") or service.get("cap_drop") != ["ALL"]:
                yield f"{place} must be read_only and drop all capabilities"
            if name.endswith("setup") and _SETUP_NEEDS - set(service["cap_add"]):
                yield f"{place} must add {', '.join(sorted(_SETUP_NEEDS))}"
            if "mem_limit" not in service:
                yield f"{place} must have a mem_limit"
            if "user" in service and not name.endswith("setup"):
                yield f"{place} must run as its image's user"


def _systemd() -> Iterator[str]:
    needed = {
        "fovea-trainer.service": {
            "User": "fovea-trainer",
            "PrivateNetwork": "yes",
            "TemporaryFileSystem": "/run:ro",  # sockets of the resolver and D-Bus
        },
        "fovea-connector.service": {
            "User": "fovea-connector",
            "InaccessiblePaths": TRAINER_FOLDER,
        },
        "fovea-serve.service": {"User": "fovea"},
    }
    for name, settings in needed.items():
        unit = RawConfigParser(strict=False)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(HERE / "systemd" / name)
        service = unit["Service"]
        shared = {
            "NoNewPrivileges": "yes",
            "ProtectSystem": "strict",
            "Restart": "always",
            "RestartSec": "15",
            "CapabilityBoundingSet": "",
        }
        for key, value in (settings | shared).items():
            if service.get(key) != value:
                yield f"systemd/{name}: expected {key}={value}, found {service.get(key)}"
        if "MemoryMax" not in service:
            yield f"systemd/{name}: expected MemoryMax"
        if unit["Unit"].get("StartLimitIntervalSec") != "0":
            yield f"systemd/{name}: expected StartLimitIntervalSec=0"


def _kubernetes() -> Iterator[str]:
    documents: dict[tuple[str, str], Any] = {}
    for path in sorted((HERE / "kubernetes").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            documents[document["kind"], document["metadata"]["name"]] = document
    deny = documents["NetworkPolicy", "nothing-in-nothing-out"]["spec"]
    if deny != {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}:
        yield "kubernetes: nothing-in-nothing-out must select every pod and allow nothing"
    allowed = documents["NetworkPolicy", "connector-to-coordinator"]["spec"]["podSelector"]
    trainer = documents["StatefulSet", "fovea-trainer"]["spec"]["template"]
    labels = trainer["metadata"]["labels"].items()
    if allowed["matchLabels"].items() <= labels:
        yield "kubernetes: connector-to-coordinator must not select the trainer"
    connector = documents["StatefulSet", "fovea-connector"]["spec"]["template"]["spec"]
    claims = [v.get("persistentVolumeClaim", {}).get("claimName") for v in connector["volumes"]]
    if "fovea-trainer" in claims:
        yield "kubernetes: the connector must not mount the trainer's volume"
    for (kind, name), document in documents.items():
        if kind != "StatefulSet":
            continue
        pod = document["spec"]["template"]["spec"]
        if not pod["securityContext"].get("runAsNonRoot"):
            yield f"kubernetes: {name} must run as no root"
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            if not context.get("readOnlyRootFilesystem") or context["capabilities"] != {
                "drop": ["ALL"]
            }:
                yield f"kubernetes: {name}/{container['name']} must be read-only, no capabilities"


if __name__ == "__main__":
    main()
