#!/bin/sh
# Checks every file of deploy/ with the tools that are installed here, and names those that are not.
# Exit 1 when a file is wrong; a missing tool is no error, but what it would have found stays unknown.
#
#   PYTHON           the project's environment                     [.venv/bin/python]
#   COMPOSE_SCHEMA   compose-spec.json of github.com/compose-spec/compose-spec, for machines without
#                    `docker compose`
set -u
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-.venv/bin/python}
PATH=$PATH:/usr/sbin:/usr/local/sbin
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=''
missing=''

has() { command -v "$1" >/dev/null 2>&1; }
lacks() { missing="$missing
  $1"; printf 'MISSING  %s\n' "$1"; }
check() {  # check WHAT COMMAND…
    what=$1; shift
    if "$@" >"$work/said" 2>&1; then
        printf 'ok       %s\n' "$what"
    else
        printf 'WRONG    %s\n' "$what"; sed 's/^/         /' "$work/said"
        failed="$failed
  $what"
    fi
}

# --- isolation, and what the connector's image installs ------------------------------------------
if [ -x "$PYTHON" ]; then
    check 'isolation rules' "$PYTHON" deploy/check_isolation.py
    check 'connector-requirements.txt' "$PYTHON" deploy/containers/connector_requirements.py --check
else
    lacks "the project's environment ($PYTHON): isolation rules, connector-requirements.txt"
fi

# --- container files -----------------------------------------------------------------------------
if has hadolint; then
    for file in deploy/containers/*.Dockerfile; do check "hadolint $file" hadolint "$file"; done
else
    lacks 'hadolint: container files'
fi
if has docker && docker info >/dev/null 2>&1; then
    for file in deploy/containers/*.Dockerfile; do
        check "docker build --check $file" docker build --check -f "$file" .
    done
else
    lacks 'a docker daemon: building the images'
fi

# --- compose -------------------------------------------------------------------------------------
schema() {
    "$PYTHON" - "$COMPOSE_SCHEMA" "$1" <<'PY'
import json, sys, jsonschema, yaml
with open(sys.argv[1]) as schema, open(sys.argv[2]) as document:
    jsonschema.validate(yaml.safe_load(document), json.load(schema))
PY
}
if has docker && docker compose version >/dev/null 2>&1; then
    for file in coordinator site trial; do
        check "docker compose config $file.yaml" docker compose -f "deploy/compose/$file.yaml" config --quiet
    done
    check 'docker compose config site.yaml with site.gpu.yaml' docker compose \
        -f deploy/compose/site.yaml -f deploy/compose/site.gpu.yaml config --quiet
else
    lacks 'docker compose: its own reading of the compose files'
fi
if [ -n "${COMPOSE_SCHEMA:-}" ]; then
    for file in deploy/compose/*.yaml; do check "compose schema $file" schema "$file"; done
else
    lacks 'COMPOSE_SCHEMA: the compose files against their schema'
fi

# --- systemd -------------------------------------------------------------------------------------
if has systemd-analyze; then
    # Settings that it does not know are only warned of.
    silently() { "$@" >"$work/warned" 2>&1 && test ! -s "$work/warned" || { cat "$work/warned"; false; }; }
    # The programs need not be installed where this runs.
    mkdir "$work/units"
    cp -r deploy/systemd/*.service deploy/systemd/*.service.d "$work/units"
    sed -i 's|^ExecStart=/opt/fovea/bin/.*|ExecStart=/bin/true|; /^Documentation=/d' "$work/units"/*.service
    for file in "$work"/units/*.service; do
        unit=$(basename "$file")
        check "systemd-analyze verify $unit" silently systemd-analyze verify --man=no "$file"
        check "systemd-analyze security $unit (at most 2.0)" \
            systemd-analyze security --offline=yes --threshold=20 --no-pager "$file"
    done
else
    lacks 'systemd-analyze: the units'
fi
if has systemd-sysusers && has systemd-tmpfiles && [ "$(id -u)" = 0 ]; then
    mkdir -p "$work/root/etc"
    check 'systemd-sysusers makes the users' \
        systemd-sysusers --root="$work/root" "$PWD/deploy/systemd/fovea.sysusers.conf"
    check 'systemd-tmpfiles makes the folders' systemd-tmpfiles --create --root="$work/root" \
        "$PWD/deploy/systemd/fovea-site.tmpfiles.conf" "$PWD/deploy/systemd/fovea-coordinator.tmpfiles.conf"
    check 'run/ is 3770' test "$(stat -c %a "$work/root/var/lib/fovea-site/run")" = 3770
else
    lacks 'systemd-sysusers and systemd-tmpfiles, as root: users and folders'
fi

# --- nftables ------------------------------------------------------------------------------------
if has nft && [ "$(id -u)" = 0 ]; then
    # Its users need not exist where this runs.
    sed 's/^define fovea_users = .*/define fovea_users = { 1, 2 }/' deploy/nftables/fovea.nft >"$work/fovea.nft"
    check 'nft -c' nft -c -f "$work/fovea.nft"
else
    lacks 'nft, as root: the rules of a coordinator'
fi

# --- nginx ---------------------------------------------------------------------------------------
if has nginx && has openssl; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=trial \
        -keyout "$work/server.key" -out "$work/server.crt" >/dev/null 2>&1
    cp "$work/server.crt" "$work/ca.crt"
    sed "s|/var/lib/fovea/tls/|$work/|; s|/var/lib/fovea/ca/|$work/|; s|/var/log/nginx/|$work/|" \
        deploy/nginx/fovea.conf >"$work/fovea.conf"
    sed "s|/tmp/|$work/|; s|/etc/nginx/conf.d/\*.conf|$work/fovea.conf|" \
        deploy/nginx/container.conf >"$work/nginx.conf"
    check 'nginx -t' nginx -t -q -e stderr -c "$work/nginx.conf"
else
    lacks 'nginx and openssl: the proxy (tests/deployment/test_proxy.py really starts it)'
fi

# --- Kubernetes ----------------------------------------------------------------------------------
if has kubeconform; then
    check 'kubeconform' kubeconform -strict -summary deploy/kubernetes
elif has kubernetes-validate; then
    for file in deploy/kubernetes/*.yaml; do
        check "kubernetes-validate $file" kubernetes-validate --strict --quiet "$file"
    done
else
    lacks 'kubeconform or kubernetes-validate: the manifests against their schemas'
fi
if has kubectl && kubectl version >/dev/null 2>&1; then
    for file in deploy/kubernetes/*.yaml; do
        check "kubectl --dry-run=server $file" kubectl apply --dry-run=server -f "$file"
    done
else
    lacks 'a Kubernetes cluster: its own reading of the manifests'
fi

[ -z "$missing" ] || printf '\nNot validated, for want of:%s\n' "$missing"
[ -z "$failed" ] || { printf '\nWrong:%s\n' "$failed"; exit 1; }
