"""Exit 0 when the trainer of this container answers on its socket (gRPC health), else 1.

Answering is all a container can be restarted for; whether the site is fit to take part is what
`fovea-site status` says.
"""

import os
import sys
from contextlib import closing
from pathlib import Path

from client.door.service import TrainerStub
from client.home.folders import DEFAULT_HOME, HOME_VARIABLE, SiteHome

TIMEOUT_S = 5.0

home = SiteHome(Path(os.environ.get(HOME_VARIABLE, DEFAULT_HOME)))
with closing(TrainerStub(home.socket, request_mb=1)) as stub:
    sys.exit(0 if stub.is_listening(TIMEOUT_S) else 1)
