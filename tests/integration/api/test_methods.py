"""What all methods share: rules of fields, errors without content; and the listing of policies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import ErrorInfo

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
UNKNOWN_IN_IMAGE = b"\x0a\x0c\x0a\x01a\x1a\x07\x12\x01a\xa2\x06\x01x"


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
            pb.ModeratePostRequest.FromString(b"\x0a\x07\x0a\x01a\xa2\x06\x01x"),
            "INVALID_POST: unknown field",
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
        ("ModeratePost", pb.ModeratePostRequest(post=Post(id="")), "INVALID_POST", "post.id"),
        ("ModeratePost", pb.ModeratePostRequest(post=Post(id="1", tenant="x\n")), "INVALID_POST", "post.tenant"),
        ("ModeratePost", pb.ModeratePostRequest.FromString(UNKNOWN_IN_IMAGE), "INVALID_POST", "post.images[0]"),
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


async def test_a_refused_post_says_what_is_wrong_with_it(running_api: Api) -> None:
    async with running_api.running() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service(channel).ModeratePost(pb.ModeratePostRequest(post=Post(id="a\n")))
    packed = next(iter(caught.value.trailing_metadata() or ()))
    error = ErrorInfo()
    status_pb2.Status.FromString(packed[1]).details[0].Unpack(error)
    assert dict(error.metadata) == {"post_reason": "INVALID_POST", "post_detail": "control character"}


async def test_what_is_wrong_in_a_part_does_not_refuse_a_post(running_api: Api) -> None:
    running_api.set(max_wait_s=1.0)
    async with running_api.running() as channel:
        for post in (
            Post(id="a", images=[Image(), Image(uri="file:///\n"), Image(data=b"x")]),
            Post(id="a", text="x" * 100_001),
            Post(id="a", images=[Image(uri="file:///a")] * 1_000),
        ):
            assert (
                await service(channel).ModeratePost(pb.ModeratePostRequest(post=post))
            ).state == pb.LOOKUP_STATE_PENDING


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
        started = time.time()
        response = await service(channel).ListPolicies(pb.ListPoliciesRequest())
        assert 0 <= started - response.read_at.ToMilliseconds() / 1000 < 600, "the policies were read at the start"
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
