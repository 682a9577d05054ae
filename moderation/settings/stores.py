"""Settings of object stores that image references may point into."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, SecretStr, model_validator

from moderation.settings.kinds import Group, advanced, basic

SCHEMES = ("s3", "gs", "az")
_BUCKET = re.compile("[$A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_CONTROL = re.compile("[\x00-\x1f\x7f]")

# Variables with which a cloud's own tools, and so the library, find credentials: all of one row.
_CLOUD = {
    "s3": (
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"),
        ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
    ),
    "gs": (
        ("GOOGLE_APPLICATION_CREDENTIALS",),
        ("GOOGLE_SERVICE_ACCOUNT",),
        ("GOOGLE_SERVICE_ACCOUNT_PATH",),
        ("GOOGLE_SERVICE_ACCOUNT_KEY",),
    ),
    "az": (
        ("AZURE_STORAGE_ACCOUNT_KEY",),
        ("AZURE_STORAGE_SAS_TOKEN",),
        ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET"),
        ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"),
    ),
}


def cloud_names_credentials(scheme: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the variables of the cloud name credentials of this process, or of its pod."""
    return any(all(environment.get(name) for name in names) for names in _CLOUD[scheme])


def segments_of(reference: str) -> tuple[str, str, tuple[str, ...]]:
    """The scheme, the bucket, and the key in segments, of scheme://bucket/key. No character is decoded.

    Raises ValueError for a key that a store may read as another one: with an empty segment, `.`, `..`, or a control
    character.
    """
    scheme, separator, rest = reference.partition("://")
    bucket, _, key = rest.partition("/")
    segments = tuple(key.split("/")) if key else ()
    if not separator or not _BUCKET.fullmatch(bucket):
        raise ValueError("a reference is scheme://bucket/key")
    if any(segment in ("", ".", "..") for segment in segments) or _CONTROL.search(key):
        raise ValueError("a key has no empty segment, no . or .., and no control character")
    return scheme.lower(), bucket, segments


def _place(url: str) -> str:
    try:
        scheme, bucket, segments = segments_of(url.rstrip("/"))
    except ValueError as error:
        raise ValueError(
            f"must be s3://bucket, gs://bucket or az://container, with a prefix or none: {error}"
        ) from None
    if scheme not in SCHEMES:
        raise ValueError("must begin with s3://, gs:// or az://")
    return f"{scheme}://{'/'.join((bucket, *segments))}"


def _http(url: str) -> str:
    if url and not url.startswith(("https://", "http://")):
        raise ValueError("must begin with https:// or http://")
    return url.rstrip("/")


class StoreSettings(Group):
    """Media stores: object stores of references, each with a name of your choice in place of NAME."""

    url: Annotated[str, AfterValidator(_place)] = basic(
        ...,
        "s3://bucket, gs://bucket or az://container, or only a prefix of it (s3://bucket/uploads); references below it "
        "are read, and none of another place",
    )
    credentials: Literal["keys", "environment", "instance", "anonymous"] = advanced(
        "keys",
        "keys: access_key_id and secret; environment: what the variables of the cloud name (AWS_*, AZURE_*, GOOGLE_*); "
        "instance: the metadata endpoint of the machine, which is asked for no other value; anonymous: a public bucket",
    )
    access_key_id: str = advanced("", "id of the access key (s3)")
    account: str = advanced("", "storage account of the container (az)")
    secret_file: Path | None = advanced(
        None,
        "file with the secret access key (s3), the service account's key in JSON (gs), or an account key or SAS token "
        "(az); but for gs, it is read again every few minutes",
    )
    secret: SecretStr = advanced(SecretStr(""), "the same as a value; prefer secret_file")
    region: str = advanced("us-east-1", "region of an s3 bucket", pattern="^[a-z0-9-]+$")
    endpoint: Annotated[str, AfterValidator(_http)] = advanced(
        "", "URL of a server other than the cloud's own, without the bucket; http:// is allowed here"
    )
    virtual_hosted: bool = advanced(False, "whether requests of s3 name the bucket in the host, and not in the path")
    ca_file: Path | None = advanced(None, "certificates (PEM) of authorities that the server may have as well")

    @property
    def scheme(self) -> str:
        """Its kind: s3, gs or az."""
        return self.url.partition(":")[0]

    @model_validator(mode="after")
    def _credentials_are_whole(self) -> Self:
        given = bool(self.secret_file), bool(self.secret.get_secret_value())
        if all(given):
            raise ValueError("set secret_file or secret, not both")
        if self.credentials == "keys" and not any(given):
            raise ValueError("credentials=keys needs secret_file or secret; else set credentials to another kind")
        if self.credentials != "keys" and any(given):
            raise ValueError(f"credentials={self.credentials} takes no secret_file and no secret")
        if self.scheme == "s3" and self.credentials == "keys" and not self.access_key_id:
            raise ValueError("the keys of an s3 store need access_key_id")
        if self.scheme == "az" and not self.account:
            raise ValueError("an az store needs account, its storage account")
        return self
