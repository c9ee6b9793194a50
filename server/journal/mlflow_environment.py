"""How MLflow behaves here: no telemetry, no progress bars, no minutes of retries.

Import before mlflow, which reads these when it is imported or first used.
"""

import os

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own values let a run wait many minutes for a server that has gone.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}

for _name, _value in SETTINGS.items():
    os.environ.setdefault(_name, _value)  # what the user has set stays
