"""``fovea``: what a coordinator types. Heavy libraries load inside the command that needs them."""

import click

from server.commands import (
    explaining,
    exporting,
    federation,
    local,
    modes,
    reviewing,
    running,
    study,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fovea", prog_name="fovea")
def main() -> None:
    """Train one explainable image model across hospitals whose pictures never leave.

    On this machine alone: `fovea simulate configs/experiments/demo.yaml`, then `fovea dashboard
    out/demo`.

    With real hospitals: `fovea provision federation.yaml --out DIR`, send each its kit, `fovea
    serve`, `fovea admit` what they send back, `fovea launch CONFIG --sites a,b`, `fovea status`.
    """


for command in (
    local.simulate,
    local.show,
    local.dashboard,
    explaining.explain,
    exporting.export,
    reviewing.reviews,
    study.audit_privacy,
    modes.modes,
    federation.provision,
    federation.admit,
    federation.retire,
    federation.renew,
    federation.sites,
    federation.serve,
    running.launch,
    running.runs,
    running.status,
    running.stop,
    running.resume,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
