# syntax=docker/dockerfile:1
# The coordinator: `fovea serve` and the commands beside it (`docker compose exec server fovea …`).
# Build from the repository's root:
#   docker build -f deploy/containers/server.Dockerfile -t fovea-server .
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
COPY deploy/containers/server_health.py /opt/fovea/share/

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10000 fovea \
    && useradd --uid 10000 --gid 10000 --home-dir /var/lib/fovea --no-create-home \
       --shell /usr/sbin/nologin fovea \
    && install --directory --owner fovea --group fovea --mode 0700 /var/lib/fovea
COPY --from=installed /opt/fovea /opt/fovea
ENV PATH=/opt/fovea/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    FOVEA_HOME=/var/lib/fovea HOME=/tmp \
    MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
    FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
USER 10000:10000
WORKDIR /var/lib/fovea
VOLUME /var/lib/fovea
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python", "/opt/fovea/share/server_health.py"]
ENTRYPOINT ["fovea"]
CMD ["serve", "--json-log"]
