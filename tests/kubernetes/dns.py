"""CoreDNS, built from its Go module, beside a cluster of our own: names of Services, as every cluster has them."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.kubernetes.processes import Program
from tests.kubernetes.programs import held_cache, run_go

COREDNS = "v1.13.1"
PLUGINS = ("bind", "errors", "kubernetes", "ready")  # all of them would take three times as long to build
READY_PORT = 18181


@contextlib.contextmanager
def dns(
    folder: Path, progress: Callable[[str], object], inside: Sequence[str], kubeconfig: Path, address: str
) -> Iterator[None]:
    """It answers on port 53 of that address, and knows the Services. Raises Unavailable."""
    config = folder / "Corefile"
    config.write_text(f"""\
.:53 {{
  bind {address}
  errors
  ready {address}:{READY_PORT}
  kubernetes cluster.local {{
    kubeconfig {kubeconfig}
  }}
}}
""")

    def ready() -> bool:
        url = f"http://{address}:{READY_PORT}/ready"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    with Program([*inside, _program(progress), "-conf", config], folder / "coredns.log") as running:
        running.until(ready)
        yield


def _program(progress: Callable[[str], object]) -> Path:
    """From the cache, or built now. Raises Unavailable."""
    with held_cache() as cache:
        built = cache.parent / f"coredns-{COREDNS}" / "coredns"
        if not built.exists():
            progress(f"building CoreDNS {COREDNS} from its Go modules, once, into {built}")
            source = built.with_name("source")
            source.mkdir(parents=True, exist_ok=True)
            named = "github.com/coredns/coredns"
            imports = "".join(f'import _ "{named}/plugin/{plugin}"\n' for plugin in PLUGINS)
            (source / "go.mod").write_text(f"module moderation.test/dns\n\ngo 1.25\n\nrequire {named} {COREDNS}\n")
            (source / "main.go").write_text(
                f'package main\n\nimport "{named}/coremain"\n{imports}\nfunc main() {{ coremain.Run() }}\n'
            )
            half = built.with_suffix(".part")
            run_go("build", "-trimpath", "-ldflags", "-s -w", "-o", str(half), ".", cwd=source)
            half.rename(built)
    return built
