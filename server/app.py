"""The coordinator's Flower ServerApp, as pyproject.toml names it; its sites are the nodes' own.

server/run/deployment.py is the run it starts, server/rounds/coordinate.py its order of things.
"""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that Flower's run config names, over the nodes that are there."""
    from server.run.deployment import run_deployment  # noqa: PLC0415 - brings torch and mlflow

    run_deployment(grid, context.run_config)
