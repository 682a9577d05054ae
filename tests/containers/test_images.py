"""What an image is, before it does anything: whose, how large, and what it does without."""

from __future__ import annotations

from typing import Any

import docker
import pytest

from tests.containers.conftest import IMAGES

ROLES = sorted(IMAGES)
# Over the base: measured, and a fifth more. A dependency that comes in unseen is seen here.
LARGEST_MB = {"api": 140, "remote": 185, "worker": 6_200, "worker for a CPU": 4_400}


def settings_of(engine: docker.DockerClient, role: str) -> dict[str, Any]:
    settings: dict[str, Any] = engine.images.get(IMAGES[role]).attrs["Config"]
    return settings


def says(engine: docker.DockerClient, role: str, program: str, user: str = "") -> str:
    """What a Python program prints in the image."""
    options: dict[str, Any] = {"user": user} if user else {}
    output: bytes = engine.containers.run(
        IMAGES[role],
        ["-c", program],
        entrypoint="python",
        remove=True,
        read_only=True,
        cap_drop=["ALL"],
        network_mode="none",
        stderr=True,
        **options,
    )
    return output.decode().strip()


@pytest.mark.parametrize("role", ROLES)
def test_it_runs_its_role_as_nobody_and_without_a_shell(engine: docker.DockerClient, role: str) -> None:
    settings = settings_of(engine, role)
    assert settings["User"] == "65532:65532"
    assert settings["Entrypoint"] == ["/opt/moderation/bin/moderation"]
    assert settings["Cmd"] == ["api" if role == "api" else "worker"]
    assert settings["Healthcheck"]["Test"][:3] == ["CMD", "/opt/moderation/bin/moderation", "health"]


@pytest.mark.parametrize("role", ROLES)
def test_labels_name_the_role_the_version_and_the_source(engine: docker.DockerClient, role: str) -> None:
    labels = settings_of(engine, role)["Labels"]
    named = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    assert named["title"] == f"moderation-{role}"
    assert named["licenses"] == "Apache-2.0"
    assert named["version"] == says(engine, role, "import moderation; print(moderation.__version__)")
    assert named["revision"] not in ("", "unknown")
    assert named["source"]


@pytest.mark.parametrize("role", ROLES)
def test_it_holds_nothing_that_installs_or_builds(engine: docker.DockerClient, role: str) -> None:
    program = (
        "import importlib.util as i, shutil, pathlib; "
        "print([n for n in ('pip', 'hatchling', 'pytest', 'mypy') if i.find_spec(n)]"
        " + [n for n in ('gcc', 'cc', 'make', 'git', 'uv', 'pip') if shutil.which(n)]"
        " + [str(p) for p in (pathlib.Path('/build'), pathlib.Path('/root/.cache')) if p.exists()])"
    )
    assert says(engine, role, program, user="0") == "[]"


def test_the_api_has_no_torch_and_no_weights(engine: docker.DockerClient) -> None:
    program = (
        "import importlib.util as i, pathlib, moderation; "
        "print([n for n in ('torch', 'transformers', 'numpy', 'PIL') if i.find_spec(n)]"
        " + list(pathlib.Path(moderation.__file__).parent.rglob('*.safetensors')))"
    )
    assert says(engine, "api", program) == "[]"


def test_a_worker_for_model_servers_has_their_client_and_no_torch(engine: docker.DockerClient) -> None:
    program = (
        "import importlib.util as i, pathlib, moderation, openai; "
        "print([n for n in ('torch', 'transformers', 'numpy', 'tokenizers') if i.find_spec(n)]"
        " + list(pathlib.Path(moderation.__file__).parent.rglob('*.safetensors')))"
    )
    assert says(engine, "remote", program) == "[]"


def test_the_worker_has_torch_and_the_weights_that_ship(engine: docker.DockerClient) -> None:
    program = (
        "import torch; from moderation import models; from moderation.settings import ModelSettings; "
        "print(models.load(ModelSettings(name='demo', device='cpu')).info.name)"
    )
    assert says(engine, "worker", program)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("user", ["", "1234567:0", "1234567:1234567"])
def test_every_file_of_the_project_is_readable_and_none_writable(
    engine: docker.DockerClient, role: str, user: str
) -> None:
    program = (
        "import os; paths = [os.path.join(at, name) for top in ('/opt/venv', '/opt/moderation')"
        " for at, _, files in os.walk(top) for name in files]; "
        "print(len(paths) > 1000, [p for p in paths if not os.access(p, os.R_OK) or os.stat(p).st_mode & 0o022][:5])"
    )
    assert says(engine, role, program, user) == "True []"


@pytest.mark.parametrize("role", ROLES)
def test_an_image_keeps_to_its_size(engine: docker.DockerClient, role: str) -> None:
    """The size without the base image, which the builder chooses. Layers are listed newest first."""
    layers = engine.images.get(IMAGES[role]).history()
    first = next(number for number, layer in enumerate(layers) if "shutil" in layer["CreatedBy"])
    size = sum(layer["Size"] for layer in layers[:first]) / 1e6
    for_cpu = "MODERATION_MODEL__DEVICE=cpu" in settings_of(engine, role)["Env"]
    assert size <= LARGEST_MB[f"{role} for a CPU" if for_cpu else role]
