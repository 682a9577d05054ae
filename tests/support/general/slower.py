"""How much slower a checkpoint is on a class of transformers than on a family, as one run's ratios.

    python -m tests.support.general.slower --json results.json

One LLaVA, with and without its chat template: with it, transformers' class runs the weights; without it, a family.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from safetensors import safe_open

from moderation import models
from moderation.models.contract import Classifier
from moderation.settings import ModelSettings
from moderation.types import Content
from tests.support.general import llava
from tests.support.small_model import a_content, a_picture, questions

POLICIES = (1, 5, 20)
HIDDEN, TOWER, LAYERS = 512, 128, 16  # a family computes less of the last layer, so a model has many


def seconds(model: Classifier, content: Content, policies: int) -> float:
    """CPU seconds of one post."""
    begun = time.process_time()
    model.score(model.encode(content, questions(policies)))
    return time.process_time() - begun


def main() -> None:
    """Prints a line for each case, and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="in each, both ways take turns")
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    llava.HIDDEN, llava.TOWER, llava.LAYERS = HIDDEN, TOWER, LAYERS
    with tempfile.TemporaryDirectory() as scratch:
        folders = [llava.make(Path(scratch) / name) for name in ("general", "family")]
        (folders[1] / "chat_template.json").unlink()
        file = next(folders[0].glob("*.safetensors"))
        with safe_open(file, "pt") as tensors:
            numbers = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118  no mapping
        general, family = (models.load(ModelSettings(name=str(folder), device="cpu")) for folder in folders)
    text = "The harbour was quiet, and the boats lay still. " * 12
    cases = []
    for pictures, policies in product((0, 1), POLICIES):
        content = a_content(text, *[a_picture(90, 60)] * pictures)
        for model in (general, family):
            seconds(model, content, policies)  # warm
        pairs = [(seconds(general, content, policies), seconds(family, content, policies)) for _ in range(args.rounds)]
        ratios = sorted(slow / quick for slow, quick in pairs)
        case = {"pictures": pictures, "policies": policies, "times_slower": round(statistics.median(ratios), 3)}
        cases.append(case | {"quartiles": [round(ratios[len(ratios) // 4], 3), round(ratios[-len(ratios) // 4], 3)]})
        print(cases[-1], flush=True)
    report = {
        "command": "python -m tests.support.general.slower " + " ".join(sys.argv[1:]),
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"CPU, 1 thread of {os.cpu_count()}, {platform.machine()}, shared",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "numbers": numbers,
        "cases": cases,
    }
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
