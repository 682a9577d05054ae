"""What a process that scores has imported."""

from __future__ import annotations

import subprocess
import sys

from tests.support.small_model import seeded_folder, settings


def test_scoring_needs_no_transformers() -> None:
    code = (
        "import sys; from moderation import models; from moderation.settings import ModelSettings;"
        f"models.load(ModelSettings(name={settings().name!r}, device='cpu'));"
        "sys.exit(any(name in sys.modules for name in ('transformers', 'torchvision', 'huggingface_hub')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_loading_does_not_import_the_compiler() -> None:
    code = (
        "import sys; from moderation import models; from moderation.settings import ModelSettings;"
        "models.load(ModelSettings(name=sys.argv[1], device='cpu')); sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(seeded_folder())], check=True, timeout=120)
