# syntax=docker/dockerfile:1
# The half of a site that speaks with the coordinator: no torch, no pictures, a few hundred megabytes.
# Build from the repository's root:
#   docker build -f deploy/containers/connector.Dockerfile -t fovea-connector .
# Without internet: fill wheels/ as the runbook says and add --build-context wheels=wheels.
FROM python:3.11-slim-bookworm AS build

# An empty folder unless --build-context wheels=… replaces it.
FROM scratch AS wheels

FROM build AS installed
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fovea
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY deploy/containers/connector-requirements.txt ./
COPY common common
COPY client client
# No server here: a wheel lists what it packs, so its folder is there and empty.
RUN mkdir server
# The build's own tools are pinned by the lock as well.
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$(ls -A /wheels)" ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels; fi; \
    export PIP_CONSTRAINT=/src/requirements.lock; \
    /opt/fovea/bin/pip install -r connector-requirements.txt \
    && /opt/fovea/bin/pip install --no-deps . \
    && ! /opt/fovea/bin/python -c "import torch" 2>/dev/null
COPY deploy/RUNBOOK.md /opt/fovea/share/

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10002 fovea-connector \
    && useradd --uid 10002 --gid 10002 --home-dir /var/lib/fovea-site --no-create-home \
       --shell /usr/sbin/nologin fovea-connector \
    && mkdir --parents /var/lib/fovea-site
COPY --from=installed /opt/fovea /opt/fovea
ENV PATH=/opt/fovea/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FOVEA_SITE_HOME=/var/lib/fovea-site HOME=/tmp \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 FLWR_HOME=/tmp/flwr
USER 10002:10002
WORKDIR /var/lib/fovea-site
STOPSIGNAL SIGTERM
# Healthy: connected, able to train, no run waiting for a person. Nobody restarts it for being less.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["fovea-site", "status"]
ENTRYPOINT ["fovea-site"]
CMD ["connector", "--log-json"]
