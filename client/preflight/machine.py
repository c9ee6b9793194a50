"""Looks at this machine: disk, memory, processors, GPU, installed versions, services."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import psutil

from client.home.folders import SiteHome
from client.home.site import MachineSettings, SiteSettings
from client.preflight.finding import Finding, error, ok, warning

PACKAGES = ("server", "client", "common")
PYTHON = (3, 11)
GPU_TIMEOUT_S = 90.0  # the first load of torch from a slow disk
MIN_MEMORY_MB = 2000  # a small model and one batch; below it the kernel kills training
MIN_GPU_MB = 2000
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_EXACT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^;\s]+)$")
_PROBE = """
import json, torch
found = []
if torch.cuda.is_available():
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append([torch.cuda.get_device_name(index), free, total])
print(json.dumps(found))
"""


def check_disk(home: SiteHome, site: SiteSettings) -> Finding:
    """Look at the free room where the site writes."""
    free_mb = shutil.disk_usage(home.trainer).free // 2**20
    least = site.limits.min_free_disk_mb
    remedy = "Make room on the disk of the site's folder, or lower limits.min_free_disk_mb."
    if free_mb < least:
        return error("disk", f"{free_mb} MB are free, the site asks for {least}", remedy)
    if free_mb < 2 * least:
        return warning("disk", f"{free_mb} MB are free, the site stops at {least}", remedy)
    return ok("disk", f"{free_mb} MB are free")


def check_processors(machine: MachineSettings) -> Iterator[Finding]:
    """Look at memory and processors."""
    free_mb = psutil.virtual_memory().available // 2**20
    wanted = MIN_MEMORY_MB * machine.processes
    if free_mb < wanted:
        yield warning(
            "memory",
            f"{free_mb} MB are free, training takes about {wanted}",
            "End other programs, add memory, or lower machine.processes.",
        )
    else:
        yield ok("memory", f"{free_mb} MB are free")
    cores = len(os.sched_getaffinity(0))
    threads = machine.num_threads * machine.processes
    if threads > cores:
        yield warning(
            "processors",
            f"{threads} threads are set, this process may use {cores} cores",
            "Lower machine.num_threads or machine.processes of site.yaml.",
        )
    else:
        yield ok("processors", f"{threads} of {cores} cores are used")


def check_gpu(machine: MachineSettings) -> Finding:
    """Look for the GPUs that the settings ask for, in a process of its own."""
    if machine.device == "cpu":
        return ok("GPU", "not asked for (machine.device is cpu)")
    try:
        done = subprocess.run(  # noqa: S603 - this very interpreter, a fixed program
            [sys.executable, "-c", _PROBE],
            capture_output=True,
            text=True,
            timeout=GPU_TIMEOUT_S,
            check=True,
        )
        found: list[tuple[str, int, int]] = json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError):
        return error(
            "GPU",
            f"torch cannot be loaded, or gave no answer within {GPU_TIMEOUT_S:.0f} s",
            f'See what it says: {sys.executable} -c "import torch; torch.cuda.init()"',
        )
    return _gpu_finding(machine, found)


def _gpu_finding(machine: MachineSettings, found: list[tuple[str, int, int]]) -> Finding:
    remedy = "Look at `nvidia-smi` and the driver, or set machine.device to cpu."
    if not found and machine.device == "cuda":
        return error("GPU", "none can be used", remedy)
    if not found:
        return warning("GPU", "none can be used; the site trains on its processors", remedy)
    if machine.processes > len(found):
        return error(
            "GPU",
            f"{machine.processes} processes are set, {len(found)} GPUs can be used",
            "Set machine.processes to the number of GPUs.",
        )
    listed = ", ".join(
        f"{name} ({free // 2**20} of {total // 2**20} MB free)" for name, free, total in found
    )
    if any(free < MIN_GPU_MB * 2**20 for _, free, _ in found[: machine.processes]):
        return warning("GPU", listed, "End what else uses the GPU (`nvidia-smi` lists it).")
    return ok("GPU", listed)


@cache  # what is installed stays the same while this process runs
def check_versions() -> Finding:
    """Compare Python and every exactly pinned library with what is installed."""
    wrong = []
    if sys.version_info[:2] != PYTHON:
        wrong.append(f"Python {sys.version_info[0]}.{sys.version_info[1]} instead of 3.11")
    again = "Install this release again in an environment of its own, with its requirements.lock."
    try:
        pins = [pin.groups() for line in requires("fovea") or () if (pin := _EXACT.match(line))]
    except PackageNotFoundError:
        return error("versions", "Fovea is not installed in this environment", again)
    for name, wanted in pins:
        try:
            # "2.13.0+cpu" is 2.13.0 built for processors.
            installed = version(name).partition("+")[0]
        except PackageNotFoundError:
            installed = "none"
        if installed != wanted:
            wrong.append(f"{name} {installed} instead of {wanted}")
    if wrong:
        return error("versions", ", ".join(wrong), again)
    return ok("versions", f"Fovea {version('fovea')}; Python and {len(pins)} libraries as pinned")


@cache
def check_package_names() -> Finding:
    """Look whether another distribution brought a package of one of Fovea's plain names."""
    owners = packages_distributions()  # an editable install has no entry of its own
    foreign = {
        name: sorted(set(owners.get(name, ())) - {"fovea"}) for name in PACKAGES if name in owners
    }
    shared = [f"{name} ({', '.join(others)})" for name, others in foreign.items() if others]
    if shared:
        return error(
            "package names",
            f"another distribution owns {', '.join(shared)} too",
            "Uninstall it, then install Fovea again: one of them has overwritten the other.",
        )
    return ok("package names", "client, common and server are Fovea's alone")


def check_services() -> Finding:
    """Tell whether the site runs as services."""
    units = {path.name for folder in UNIT_FOLDERS for path in Path(folder).glob("fovea-*.service")}
    if units:
        return ok("services", ", ".join(sorted(units)))
    return ok("services", "no systemd units; `fovea-site run` supervises both processes")
