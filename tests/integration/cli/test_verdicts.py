"""`moderation submit`, `list` and `watch`, as a user types them, at an API of this process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

from moderation.settings import Settings
from moderation.types import Origin, Outcome, Score, Verdict
from tests.support.builders import a_finding, a_verdict
from tests.support.lookups import Api

POLICIES = Path(__file__).parents[3] / "policies"
NOTHING = a_verdict("elsewhere", origin=Origin.NONE, findings=(), content_digest="9" * 64)


def removed(id: str) -> Verdict:
    spam, scam = a_finding("spam", outcome=Outcome.REMOVE, score=Score(0.97, 3.5, 0.99)), a_finding("scam")
    return a_verdict(id, outcome=Outcome.REMOVE, deciding_policy="spam", findings=(scam, spam))


async def started(api: Api, *arguments: str) -> asyncio.subprocess.Process:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODERATION_")}
    command = (sys.executable, "-m", "moderation", *arguments, "--api", api.address)
    return await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)


async def ran(api: Api, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    process = await started(api, *arguments)
    printed, said = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode or 0, printed.decode(), said.decode()


def with_policies(api: Api, folder: Path) -> None:
    api.settings = Settings.model_validate(api.settings.model_dump() | {"policies": folder})


async def test_list_and_watch_know_policies_and_show_scores(running_api: Api) -> None:
    with_policies(running_api, POLICIES)
    async with running_api.running():
        assert await ran(running_api, "list") == (0, "", "no verdicts\n")
        await running_api.put(removed("a"), replace(NOTHING, decided_at_ms=2_000_000_000_000))
        async with asyncio.timeout(60):
            while len((await ran(running_api, "list", "--json"))[1].splitlines()) < 2:
                pass
        _, printed, _ = await ran(running_api, "list")
        newest, older = printed.splitlines()
        assert newest == "2033-05-18T03:33:20Z ALLOW elsewhere FINAL no policy applies to this post"
        assert "REMOVE a FINAL by spam; spam 0.970, scam 0.100" in older
        assert (await ran(running_api, "list", "--limit", "1"))[1] == f"{newest}\n"
        _, printed, _ = await ran(running_api, "list", "--outcome", "remove", "--json")
        assert [json.loads(line)["postId"] for line in printed.splitlines()] == ["a"]
        code, printed, said = await ran(running_api, "list", "--policy", "spam")
        assert (code, printed) == (0, f"{older}\n"), "a policy of the past has verdicts too"
        assert "the API has no policy 'spam'" in said
        code, printed, said = await ran(running_api, "watch", "--policy", "weapons-sales", "--policy", "weapons-sale")
        assert (code, printed) == (2, "")
        assert "no policy 'weapons-sales'; did you mean weapons-sale?" in said


async def test_an_api_without_policies_and_without_a_worker(running_api: Api, tmp_path: Path) -> None:
    with_policies(running_api, tmp_path / "none")
    async with running_api.running():
        watch = await started(running_api, "watch", "--policy", "spam")
        assert watch.stderr
        assert watch.stdout
        said = await asyncio.wait_for(watch.stderr.readline(), 60)
        assert b"--policy is not checked, because the API lists no policies: it has no policy folder" in said
        line = asyncio.create_task(watch.stdout.readline())
        while not line.done():  # a watch begins with now
            await running_api.put(removed("a"), "a")
            await asyncio.wait([line], timeout=0.2)
        assert (await line).startswith(b"REMOVE a FINAL by spam; spam 0.970, scam 0.100")
        watch.terminate()
        await watch.communicate()
        code, printed, _ = await ran(running_api, "submit", "--id", "a", "--text", "x", "--timeout", "2")
        assert (code, printed) == (1, "a: accepted, no verdict yet; look it up later: moderation get a\n")
