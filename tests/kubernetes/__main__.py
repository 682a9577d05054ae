"""python -m tests.kubernetes [IMAGES.tar ...]: the test's own cluster, with these images, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from tests.kubernetes.node import own_node

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
with own_node(print) as node:
    node.load(*map(Path, sys.argv[1:]))
    print(f"export KUBECONFIG={node.cluster.kubeconfig}\nkubectl is {node.cluster.kubectl}", flush=True)
    signal.sigwait({signal.SIGINT, signal.SIGTERM})
