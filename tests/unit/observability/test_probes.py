"""The probes report the state of the process, also while its event loop is stuck."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

import moderation
from moderation.errors import ConfigError
from moderation.observability import probes
from moderation.observability.probes import Liveness, Work
from moderation.settings import OpsSettings
from tests.support.lookups import a_free_address
from tests.support.operations_port import ask


def a_liveness(works: list[Work] | None = None) -> Liveness:
    """A liveness whose role has these works in hand, one after the other."""
    liveness = Liveness(OpsSettings(loop_timeout_s=30))
    if works:
        liveness.look = lambda: works.pop(0)
    return liveness


def test_a_process_is_alive_while_its_event_loop_ticks() -> None:
    liveness = a_liveness()
    liveness.tick(1000)
    assert liveness.stuck_cause(1029) == ""
    assert liveness.stuck_cause(1031) == "the event loop has stood still for 31 s"
    liveness.tick(1032)
    assert liveness.stuck_cause(1033) == ""


def test_a_process_is_alive_while_no_post_is_in_hand_for_too_long() -> None:
    liveness = a_liveness([Work(None, 900), Work(1000, 900), Work(1000, 900), Work(1500, 900), Work(None, 900)])
    liveness.tick(1000)
    assert liveness.stuck_cause(1000) == ""
    liveness.tick(1899)
    assert liveness.stuck_cause(1899) == ""
    liveness.tick(1902)  # other work may have progressed
    assert liveness.stuck_cause(1902) == "a post has been in hand for 902 s"
    liveness.tick(1903)  # the post is committed, and another is the oldest
    assert liveness.stuck_cause(1903) == ""
    liveness.tick(2500)
    assert liveness.stuck_cause(2500) == ""


async def test_the_port_answers_while_the_event_loop_is_stuck() -> None:
    listen = a_free_address()
    seen: list[tuple[int, str]] = []

    def watch() -> None:
        """Asks until the port says that the loop is stuck. Metrics and the other probes still respond."""
        while not seen or seen[-1][0] != 503:
            seen.append(ask(listen, "/livez"))
        seen.append(ask(listen, "/metrics"))
        seen.append(ask(listen, "/startupz"))

    async with probes.opened(OpsSettings(listen=listen, loop_timeout_s=0.7), "worker") as liveness:
        liveness.started = True
        assert (await asyncio.to_thread(ask, listen, "/livez")) == (200, "alive\n")
        thread = threading.Thread(target=watch)
        thread.start()
        thread.join(60)  # this blocks the event loop
        assert not thread.is_alive()
        assert seen[0][0] == 200
        assert seen[-3] == (503, "the event loop has stood still for 1 s\n")
        ages = {family.name: family for family in text_string_to_metric_families(seen[-2][1])}
        assert ages["moderation_loop_tick_age_seconds"].samples[0].value > 0.7
        assert seen[-1][0] == 200
        async with asyncio.timeout(30):
            while (await asyncio.to_thread(ask, listen, "/livez"))[0] != 200:
                pass  # the loop ticks again
    with pytest.raises(OSError, match="refused"):
        await asyncio.to_thread(ask, listen, "/livez")


async def test_ready_and_started_are_as_the_role_sets_them() -> None:
    listen = a_free_address()
    async with probes.opened(OpsSettings(listen=listen), "api") as liveness:
        for path, no, yes in (("/readyz", "not ready", "ready"), ("/startupz", "starting", "started")):
            assert (await asyncio.to_thread(ask, listen, path)) == (503, f"{no}\n")
            liveness.ready = liveness.started = True
            assert (await asyncio.to_thread(ask, listen, path)) == (200, f"{yes}\n")
            liveness.ready = liveness.started = False
        assert (await asyncio.to_thread(ask, listen, "/nothing"))[0] == 404
        assert (await asyncio.to_thread(ask, listen, "/livez", "POST"))[0] == 405
        assert (await asyncio.to_thread(ask, listen, "/livez", "HEAD")) == (200, "")
        open_metrics = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert (await asyncio.to_thread(ask, listen, "/metrics", "GET", open_metrics))[1].endswith("# EOF\n")
        _, text = await asyncio.to_thread(ask, listen, "/metrics")
        assert f'moderation_build_info{{role="api",version="{moderation.__version__}"}} 1.0' in text


async def test_names_and_texts_are_what_promtool_expects() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool (Debian: apt install prometheus): the metrics' names are NOT linted")
    listen = a_free_address()
    async with probes.opened(OpsSettings(listen=listen), "api"):
        _, text = await asyncio.to_thread(ask, listen, "/metrics")
    command = [promtool, "check", "metrics"]
    linted = await asyncio.to_thread(
        subprocess.run, command, check=False, input=text, capture_output=True, text=True, timeout=60
    )
    problems = [line for line in (linted.stdout + linted.stderr).splitlines() if line.startswith("moderation_")]
    assert problems == []


@pytest.mark.parametrize(
    "listen", ["9464", "localhost:", ":9464", "localhost:http!", "127.0.0.1:99999", "256.1.1.1.1:9464"]
)
async def test_an_invalid_address_is_named_in_the_error(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"MODERATION_OPS__LISTEN: cannot listen on"):
        async with probes.opened(OpsSettings(listen=listen), "api"):
            pass


async def test_a_taken_address_is_named_in_the_error() -> None:
    listen = a_free_address()
    async with probes.opened(OpsSettings(listen=listen), "api"):
        with pytest.raises(ConfigError, match=r"MODERATION_OPS__LISTEN: .* in use"):
            async with probes.opened(OpsSettings(listen=listen), "worker"):
                pass


async def test_an_error_at_a_tick_ends_the_role() -> None:
    def broken() -> Work:
        raise RuntimeError

    async def role() -> None:
        async with probes.opened(OpsSettings(listen=a_free_address()), "worker") as liveness:
            liveness.look = broken
            await asyncio.Event().wait()

    with pytest.raises(ExceptionGroup) as caught:
        await role()
    assert caught.group_contains(RuntimeError)


async def test_an_error_while_responding_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(_: float) -> str:
        raise ValueError("secret")

    listen = a_free_address()
    async with probes.opened(OpsSettings(listen=listen), "worker") as liveness:
        monkeypatch.setattr(liveness, "stuck_cause", fail)
        status, text = await asyncio.to_thread(ask, listen, "/livez")
    assert status == 500
    assert "secret" not in text + "".join(capfd.readouterr())
