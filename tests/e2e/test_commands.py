"""The commands, run as a user types them."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from moderation.demo import posts
from moderation.policies import PolicySet
from tests.support.builders import a_file
from tests.support.commands import Service
from tests.support.tinygptv_artefacts import Downloads

REPO = Path(__file__).parents[2]


def moderation(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    given = ("MODERATION_", "COLUMNS")  # pytest-xdist gives its workers a width
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(given)}
    command = [sys.executable, "-m", "moderation", *arguments]
    return subprocess.run(
        command, cwd=REPO, env=inherited | environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_classify_judges_one_post_without_kafka(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(a_file(format="JPEG"))
    done = moderation("classify", "--text", "hi [bold]", "--image", str(tmp_path / "a.jpg"), "--json", "--model", model)
    assert done.returncode == 0, done.stderr
    verdict = json.loads(done.stdout)
    assert verdict["status"] == "STATUS_FINAL"
    assert len(verdict["findings"]) == 6
    table = moderation("classify", "--text", "hi", MODERATION_MODEL=model)
    assert "weapons-sale" in table.stdout


def test_classify_names_what_is_wrong_with_a_picture(model: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    done = moderation("classify", "--image", str(tmp_path / "a.jpg"), "--model", model)
    assert done.returncode == 1, "nothing was judged"
    assert f"not judged: IMAGE_UNSUPPORTED, {tmp_path}/a.jpg: no picture\nREVIEW UNDETERMINED" in done.stdout
    assert moderation("classify", "--image", str(tmp_path / "none.jpg"), "--model", model).returncode == 2


def test_a_changed_policy_changes_the_digest(model: str, tmp_path: Path) -> None:
    for path in (REPO / "policies").glob("*.yaml"):
        (tmp_path / path.name).write_text(path.read_text())
    digests = []
    for review in ("0.50", "0.40"):
        path = tmp_path / "weapons-sale.yaml"
        path.write_text(path.read_text().replace("review: 0.50", f"review: {review}"))
        done = moderation("classify", "--text", "x", "--json", "--model", model, "--policies", str(tmp_path))
        digests.append(json.loads(done.stdout)["policySet"]["digest"])
    assert digests[0] != digests[1]


def test_the_policy_in_the_readme_is_one_that_the_demo_model_can_judge(tmp_path: Path) -> None:
    section = (REPO / "README.md").read_text().partition("\n## One policy")[2].partition("\n## ")[0]
    (name,), (text,) = re.findall(r"Save this as `(.+)`", section), re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    copy, judge = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    (tmp_path / ".venv").symlink_to(sys.prefix)  # what `make demo` has made before
    shutil.copytree(REPO / "policies", tmp_path / "policies")

    def typed(commands: str) -> subprocess.CompletedProcess[str]:
        script = f". .venv/bin/activate\n{commands}"
        return subprocess.run(
            ["sh", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False
        )

    assert copy.startswith(". .venv/bin/activate")
    assert typed(copy).returncode == 0
    (tmp_path / name).write_text(text)
    schema = re.findall(r"schema=(\S+)", text)[0]
    assert ((tmp_path / name).parent / schema).is_file()
    check, show, classify = judge.splitlines()
    checked = typed(check)
    assert checked.returncode == 0
    warning, count = checked.stderr.splitlines()
    assert "the policy has no golden set" in warning, "as the page says"
    assert count == "1 warning"
    assert "Does this post offer medicine for sale?" in typed(show).stdout
    assert f"{classify.rpartition('# ')[2]} FINAL by medicine-sale" in typed(classify).stdout
    folder = (tmp_path / name).parent
    about = ("classify", "--model", "demo", "--policies", str(folder), "--json", "--text")
    allowed = json.loads(moderation(*about, "what do you think about pills?").stdout)
    assert allowed["outcome"] == "OUTCOME_ALLOW"


def test_a_seeded_model_classifies_a_text(tmp_path: Path) -> None:
    assert moderation("model", "seed", str(tmp_path / "small")).returncode == 0
    assert moderation("classify", "--text", "hi", "--model", str(tmp_path / "small")).returncode == 0
    assert moderation("classify", "--model", str(tmp_path / "small")).returncode == 2


def test_policies_check_and_schema(tmp_path: Path) -> None:
    assert moderation("policies", "check", "policies").returncode == 0
    assert moderation("policies", "schema").stdout == (REPO / "policies" / "policy.schema.json").read_text()
    (tmp_path / "bad.yaml").write_text("id: bad\nversion: 1\nthreshold: {}\n")
    bad = moderation("policies", "check", str(tmp_path))
    assert bad.returncode != 0
    assert f"{tmp_path}/bad.yaml:3: threshold: there is no such key" in bad.stderr


def test_probe_and_info(model: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("<|user|>\n<|image_1|>\nWhat is shown?<|end|>\n<|assistant|>\n")
    (tmp_path / "a.png").write_bytes(a_file())
    out = tmp_path / "out.npz"
    arguments = ("--prompt", str(tmp_path / "prompt.txt"), "--image", str(tmp_path / "a.png"), "--num-crops", "4")
    done = moderation("model", "probe", model, *arguments, "--out", str(out))
    assert done.returncode == 0, done.stderr
    with np.load(out) as written:
        assert set(written) == {"input_ids", "pixel_mean", "last_logits", "tail_logits_yes_no"}
        assert (written["input_ids"] == -1).sum() > 0
        assert written["pixel_mean"].shape == (1, 5)
    assert "num_crops" in moderation("model", "info", model).stdout
    assert "no moderation model for people" in moderation("model", "info", "demo").stdout


def test_tinygptvs_downloads_are_converted(tmp_path: Path) -> None:
    files = Downloads(model=None).write(tmp_path / "in")
    options = [str(part) for name in ("vit", "qformer", "phi", "stage") for part in (f"--{name}", getattr(files, name))]
    convert = ("model", "convert", "tinygptv", *options, str(tmp_path / "out"))
    refused = moderation(*convert)
    assert refused.returncode == 2
    assert "add --variant 224" in refused.stderr
    done = moderation(*convert, "--variant", "448", "--lora-alpha", "16")
    assert done.returncode == 0, done.stderr
    assert f"SHA-256 of {files.vit}" in done.stderr, "progress"
    assert "minigpt_v2, 448 x 448 pixels" in moderation("model", "info", str(tmp_path / "out")).stdout
    judged = moderation("classify", "--text", "hi", "--model", str(tmp_path / "out"))
    assert judged.returncode == 1, "weights without training answer nothing"
    assert "UNDETERMINED" in judged.stdout


def test_submit_and_get_over_grpc(service: Service, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(a_file())
    with service.worker() as worker, service.api() as api:
        worker.wait_for("worker_ready")
        address = f"127.0.0.1:{api.wait_for('api_ready')['port']}"
        submitted = moderation(
            "submit", "--id", "42", "--text", "hello", "--image", str(tmp_path / "a.png"), "--api", address, "--json"
        )
        assert submitted.returncode == 0, submitted.stderr
        got = moderation("get", "42", "no-such-post", "--api", address)
        assert "no-such-post: no verdict" in got.stdout
        assert got.returncode == 1
        again = json.loads(moderation("get", "42", "--api", address, "--json").stdout)
        assert again["verdict"] == json.loads(submitted.stdout)["verdict"]
        (snippet,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
        script = snippet.replace("127.0.0.1:50051", address)
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
        assert ran.stdout.split()[0] == again["verdict"]["outcome"]
    unreachable = moderation("get", "42", "--api", "127.0.0.1:1")
    assert unreachable.returncode != 0
    assert "127.0.0.1:1" in unreachable.stderr


def test_settings_are_listed_and_a_misspelt_one_is_named() -> None:
    listed, everything = moderation("settings").stdout, moderation("settings", "--all").stdout
    assert "MODERATION_KAFKA__BOOTSTRAP=localhost:9092\n    host:port" in listed
    assert set(listed.splitlines()) - {listed.splitlines()[-1]} < set(everything.splitlines())
    assert "MODERATION_WORKER__OVERTAKE_S" in everything
    assert "MODERATION_WORKER__OVERTAKE_S" not in listed
    wrong = moderation("settings", MODERATION_KAFKA__BOOTSTRP="x")
    assert (wrong.returncode, "did you mean MODERATION_KAFKA__BOOTSTRAP?" in wrong.stderr) == (2, True)


@pytest.mark.usefixtures("kafka")
def test_the_demo_shows_its_verdicts_and_ends() -> None:
    done = moderation("demo", "--no-keep")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "…" not in done.stdout, "a pipe has no width at which to cut"
    assert "14 of 14 verdicts" in done.stdout
    assert re.search(r"cut-off .*REVIEW.* DEGRADED.* because of IMAGE_CORRUPT", done.stdout)
    for sample in posts.SAMPLES:
        (row,) = re.findall(rf"│ {sample.id} .*", done.stdout)
        assert (sample.breaks or "ALLOW") in row
    assert "weapons-sale" in done.stdout.partition("GetVerdict")[2]


@pytest.mark.usefixtures("kafka")
def test_the_demo_judges_by_the_policies_of_its_author(tmp_path: Path) -> None:
    folder = shutil.copytree(REPO / "policies/demo", tmp_path / "mine")
    beer = (folder / "alcohol.yaml").read_text()
    changed = (
        beer.replace("alcohol", "animals")
        .replace("id: animals", "id: alcohol")
        .replace("on_error: review", "on_error: remove")
    )
    (folder / "alcohol.yaml").write_text(changed)
    done = moderation(
        "demo", "--no-keep", "--policies", str(folder), COLUMNS="160", MODERATION_WORKER__MAX_IN_FLIGHT="9"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"6 of {folder}\ndigest {PolicySet.load(folder).digest}" in done.stdout
    assert "on_error: remove takes down posts with broken pictures" in done.stdout, "the warnings of its check"
    assert "does not use MODERATION_WORKER__MAX_IN_FLIGHT" in done.stdout
    (row,) = re.findall(r"│ snake-sale .*", done.stdout)
    assert "alcohol" in row, "a snake breaks the policy against animals, which is more severe than that of its sale"
    (row,) = re.findall(r"│ dinner .*", done.stdout)
    assert "ALLOW" in row, "wine breaks no policy now"


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
@pytest.mark.usefixtures("kafka")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nothing_of_the_demo_outlives_it(tmp_path: Path, number: signal.Signals) -> None:
    folder = shutil.copytree(REPO / "policies/demo", tmp_path / "mine")
    mark = {"DEMO_MARK": f"demo-{uuid4()}", "TMPDIR": str(tmp_path), "MODERATION_POLICIES": str(folder)}
    command = [sys.executable, "-m", "moderation", "demo", "--keep"]
    with subprocess.Popen(
        command, cwd=REPO, env=os.environ | mark, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout
        lines = [next(line for line in demo.stdout if end in line) for end in ("policies: ", "stays up until Ctrl-C")]
        assert lines[0] == f"policies: 6 of {folder}\n", "the setting names the folder"
        processes = marked(mark["DEMO_MARK"])
        assert len(processes) >= 7  # the demo; a broker, a worker and an API, each with its supervisor
        demo.send_signal(number)
        demo.stdout.read()
        code = demo.wait(60)
    for pidfd in processes.values():
        ended(pidfd, 60)
    assert marked(mark["DEMO_MARK"]) == {}
    if number == signal.SIGINT:
        assert code == 0
        assert list(tmp_path.glob("moderation-*")) == []


def marked(value: str) -> dict[int, int]:
    """Processes whose environment holds the value: a pidfd by pid."""
    processes = {}
    for entry in Path("/proc").iterdir():
        try:
            if value.encode() in (entry / "environ").read_bytes():
                processes[int(entry.name)] = os.pidfd_open(int(entry.name))
        except (OSError, ValueError):
            continue  # not a process, or ended meanwhile
    return processes


def ended(pidfd: int, timeout: float) -> None:
    readable, _, _ = select.select([pidfd], [], [], timeout)
    os.close(pidfd)
    assert readable, f"a process of the demo still runs after {timeout} s"
