# syntax=docker/dockerfile:1
# The half of a site that reads patients' pictures. Run it with --network none.
# Build from the repository's root:
#   docker build -f deploy/containers/trainer.Dockerfile -t fovea-trainer .
# Without internet: fill wheels/ as the runbook says and add --build-context wheels=wheels.
FROM python:3.11-slim-bookworm AS build

# An empty folder unless --build-context wheels=… replaces it.
FROM scratch AS wheels

FROM build AS installed
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/fovea
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
COPY common common
COPY client client
COPY server server
RUN --mount=type=bind,from=wheels,target=/wheels \
    if [ -n "$(ls -A /wheels)" ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels; fi; \
    PIP_CONSTRAINT=requirements.lock /opt/fovea/bin/pip install . \
    && /opt/fovea/bin/pip check
COPY configs /opt/fovea/share/configs
COPY deploy/RUNBOOK.md /opt/fovea/share/
COPY deploy/containers/trainer_health.py /opt/fovea/share/

FROM python:3.11-slim-bookworm
# The connector's user too: `fovea-site init` gives it its half of the folder.
RUN groupadd --gid 10001 fovea-trainer \
    && groupadd --gid 10002 fovea-connector \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/fovea-site --no-create-home \
       --shell /usr/sbin/nologin fovea-trainer \
    && useradd --uid 10002 --gid 10002 --home-dir /var/lib/fovea-site --no-create-home \
       --shell /usr/sbin/nologin fovea-connector \
    && mkdir --parents /var/lib/fovea-site
COPY --from=installed /opt/fovea /opt/fovea
ENV PATH=/opt/fovea/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FOVEA_SITE_HOME=/var/lib/fovea-site HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
USER 10001:10001
WORKDIR /var/lib/fovea-site
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "/opt/fovea/share/trainer_health.py"]
ENTRYPOINT ["fovea-site"]
CMD ["trainer", "--log-json"]
