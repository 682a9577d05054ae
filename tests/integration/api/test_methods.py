"""What all methods share: rules of fields, errors without content; and the listing of policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from moderation.api import cursors
from moderation.api.lookups import Lookups
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Image, Post
from tests.support.lookups import (
    Api,
    refused,
    service,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT


async def test_an_invalid_request_names_its_field(running_api: Api) -> None:
    written = "what-a-user-wrote\n"
    cases = [
        ("GetVerdict", pb.GetVerdictRequest(), "post_id is empty"),
        ("GetVerdict", pb.GetVerdictRequest(post_id="x" * 513), "post_id is longer than 512 bytes"),
        (
            "BatchGetVerdicts",
            pb.BatchGetVerdictsRequest(post_ids=["a", written]),
            "post_ids[1] holds a control character",
        ),
        ("ModeratePost", pb.ModeratePostRequest(), "INVALID_POST: id is empty"),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Post(id=written)),
            "INVALID_POST: id holds a control character",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Post(id="a", images=[Image()])),
            "INVALID_POST: images[0]: one of data and uri must be set and not empty",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Post(id="a", text="x" * 100_001)),
            "TEXT_TOO_LONG: text is longer than 100000 characters",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest.FromString(b"\x0a\x07\x0a\x01a\xa2\x06\x01x"),
            "INVALID_POST: a field is not known to this version",
        ),
    ]
    async with running_api.running() as channel:
        for method, request, text in cases:
            async with refused(INVALID) as details:
                await getattr(service(channel), method)(request)
            assert details == [text]


async def test_rules_of_fields(running_api: Api) -> None:
    cases: list[tuple[str, Any, str, str]] = [
        ("GetVerdict", pb.GetVerdictRequest(post_id="a", content_digest="x"), "INVALID_FIELD", "content_digest"),
        ("GetVerdict", pb.GetVerdictRequest(post_id="a", tenant="x" * 200), "INVALID_FIELD", "tenant"),
        (
            "GetVerdict",
            pb.GetVerdictRequest(post_id="a", consistency_token=b"\xff"),
            "INVALID_CURSOR",
            "consistency_token",
        ),
        ("BatchGetVerdicts", pb.BatchGetVerdictsRequest(post_ids=["a", ""]), "INVALID_FIELD", "post_ids[1]"),
        ("WaitVerdict", pb.WaitVerdictRequest(), "INVALID_FIELD", "post_id"),
        ("ListVerdicts", pb.ListVerdictsRequest(page_size=-1), "INVALID_FIELD", "page_size"),
        ("ListVerdicts", pb.ListVerdictsRequest(page_token="x"), "INVALID_CURSOR", "page_token"),  # noqa: S106
        ("ListVerdicts", pb.ListVerdictsRequest(outcomes=["OUTCOME_UNSPECIFIED"]), "INVALID_FIELD", "outcomes"),
        ("ListVerdicts", pb.ListVerdictsRequest(policy_ids=["p"] * 2 + [""]), "INVALID_FIELD", "policy_ids"),
        (
            "ListVerdicts",
            pb.ListVerdictsRequest(decided_from=Timestamp(seconds=1 << 60)),
            "INVALID_FIELD",
            "decided_from",
        ),
        (
            "ModeratePost",
            pb.ModeratePostRequest(post=Post(id="a"), request_id="x" * 129),
            "INVALID_FIELD",
            "request_id",
        ),
        ("ModeratePost", pb.ModeratePostRequest(post=Post(id="")), "INVALID_POST", "post"),
    ]
    async with running_api.running() as channel:
        for method, request, reason, field in cases:
            async with refused(INVALID, reason, field=field):
                await getattr(service(channel), method)(request)
        async with refused(INVALID, "INVALID_FIELD", field="policy_ids"):
            await service(channel).WatchVerdicts(pb.WatchVerdictsRequest(policy_ids=map(str, range(200)))).read()
        async with refused(INVALID, "INVALID_CURSOR", field="consistency_token"):
            token = cursors.of_record(0, 1)  # of a post: that is no place in the verdicts topic
            await service(channel).WatchVerdicts(pb.WatchVerdictsRequest(consistency_token=token)).read()


async def test_a_defect_is_an_internal_error_without_content(running_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError("what a user wrote")

    async with running_api.running() as channel:
        monkeypatch.setattr(Lookups, "_find", broken)
        async with refused(grpc.StatusCode.INTERNAL, "INTERNAL") as details:
            await service(channel).GetVerdict(pb.GetVerdictRequest(post_id="a"))
        assert details == ["internal error"]


async def test_policies_are_listed_without_prompts(running_api: Api, tmp_path: Path) -> None:
    async with running_api.running() as channel:  # the settings' default: the folder of the checkout
        response = await service(channel).ListPolicies(pb.ListPoliciesRequest())
        assert [policy.id for policy in response.policies] == sorted(policy.id for policy in response.policies)
        assert len(response.digest) == len(response.policies[0].digest) == 64
        assert response.policies[0].thresholds.review
        assert not any(policy.prompt for policy in response.policies)
    running_api.stop.clear()
    running_api.set(show_prompts=True)
    async with running_api.running() as channel:
        shown = await service(channel).ListPolicies(pb.ListPoliciesRequest())
        assert all(policy.prompt for policy in shown.policies)
    running_api.stop.clear()
    running_api.settings = running_api.settings.model_copy(update={"policies": tmp_path / "none"})
    async with running_api.running() as channel, refused(grpc.StatusCode.FAILED_PRECONDITION, "NO_POLICIES"):
        await service(channel).ListPolicies(pb.ListPoliciesRequest())
