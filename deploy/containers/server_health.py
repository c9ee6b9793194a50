"""Exit 0 when the SuperLink of this container says that it serves (gRPC health), else 1."""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from server.operations.federation_file import read_federation
from server.operations.home import DEFAULT_HOME, HOME_VARIABLE, CoordinatorHome

TIMEOUT_S = 5.0

home = CoordinatorHome(Path(os.environ.get(HOME_VARIABLE, DEFAULT_HOME)))
port = read_federation(home.federation_file).superlink_port + 1
with grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)]) as channel:
    try:
        answer = HealthStub(channel).Check(HealthCheckRequest(), timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        sys.exit(f"the SuperLink does not answer on 127.0.0.1:{port}: {error.code().name}")
sys.exit(0 if answer.status == HealthCheckResponse.SERVING else 1)
