"""Clients of object stores, made from settings alone.

The library takes what it is not given from variables of the environment, and where it finds no credentials, it asks the
instance's metadata endpoint. So a client is given all that a reference's way depends on, and is refused at the start if
it would ask that endpoint without being set to.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from moderation.errors import ConfigError
from moderation.settings import StoreSettings
from moderation.settings.stores import cloud_names_credentials

if TYPE_CHECKING:
    from obstore.store import (
        AzureConfig,
        AzureCredential,
        ClientConfig,
        GCSConfig,
        RetryConfig,
        S3Config,
        S3Credential,
    )

Client = S3Store | GCSStore | AzureStore

NOWHERE = "http://metadata.invalid"  # in place of a metadata endpoint that must not be asked
FRESH_S = 600.0  # how long a secret is good; the library asks again five minutes before
CONNECT_S = 5.0
STALLED_S = 10.0  # without a byte, an answer is given up
RETRY: RetryConfig = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=15),  # after which no try begins
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}


def client_of(variable: str, bucket: str, settings: StoreSettings, timeout_s: float) -> Client:
    """Returns a client that has asked nothing yet. variable: prefix of the store's settings.

    Raises ConfigError for credentials that are missing or that the library refuses, and for a file that is not read.
    """
    make = {"s3": _s3, "gs": _gs, "az": _az}[settings.scheme]
    try:
        client = make(bucket, settings, _options(settings, timeout_s))
    except (BaseError, ValueError, TypeError):  # the text may hold a secret
        text = f"{variable}__URL: the settings of this store do not go together, or variables of its cloud are wrong"
        raise ConfigError(text) from None
    except OSError as error:
        raise ConfigError(f"{variable}: {error.filename} cannot be read ({error.strerror})") from None
    if settings.credentials == "environment" and not cloud_names_credentials(settings.scheme):
        raise ConfigError(
            f"{variable}__CREDENTIALS: environment, but no variables of the cloud name credentials; set "
            "CREDENTIALS=instance if the machine's metadata endpoint gives them"
        )
    return client


def _options(settings: StoreSettings, timeout_s: float) -> ClientConfig:
    options: ClientConfig = {
        "allow_http": settings.endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=CONNECT_S),
        "read_timeout": timedelta(seconds=STALLED_S),
        "timeout": timedelta(seconds=timeout_s),
    }
    if settings.ca_file:
        options["root_certificate"] = settings.ca_file.read_bytes()
    return options


def _s3(bucket: str, settings: StoreSettings, options: ClientConfig) -> Client:
    host = f"{bucket}." if settings.virtual_hosted else ""
    config: S3Config = {
        "region": settings.region,
        "aws_endpoint_url_s3": settings.endpoint or f"https://{host}s3.{settings.region}.amazonaws.com",
        "virtual_hosted_style_request": settings.virtual_hosted,
        "skip_signature": settings.credentials == "anonymous",
        "s3_express": False,
    }
    if settings.credentials != "instance":
        config["metadata_endpoint"] = NOWHERE

    def keys() -> S3Credential:
        fresh = datetime.now(UTC) + timedelta(seconds=FRESH_S)
        return {"access_key_id": settings.access_key_id, "secret_access_key": secret_of(settings), "expires_at": fresh}

    if settings.credentials == "keys":
        keys()  # a missing file ends the start
        return S3Store(bucket, config=config, client_options=options, retry_config=RETRY, credential_provider=keys)
    return S3Store(bucket, config=config, client_options=options, retry_config=RETRY)


def _gs(bucket: str, settings: StoreSettings, options: ClientConfig) -> Client:
    options["default_headers"] = {"Accept-Encoding": "gzip"}  # else Google inflates, and then reads no range
    config: GCSConfig = {"skip_signature": settings.credentials == "anonymous"}
    if settings.credentials == "keys":
        config["service_account_key"] = secret_of(settings)
    if settings.endpoint:
        config["base_url"] = settings.endpoint
    return GCSStore(bucket, config=config, client_options=options, retry_config=RETRY)


def _az(bucket: str, settings: StoreSettings, options: ClientConfig) -> Client:
    config: AzureConfig = {
        "account_name": settings.account,
        "endpoint": settings.endpoint or f"https://{settings.account}.blob.core.windows.net",
        "skip_signature": settings.credentials == "anonymous",
        "use_emulator": False,
        "use_azure_cli": False,
    }
    if settings.credentials == "instance":
        config["credential_type"] = "managed_identity"
    else:
        config["msi_endpoint"] = NOWHERE

    def keys() -> AzureCredential:
        fresh = datetime.now(UTC) + timedelta(seconds=FRESH_S)
        secret = secret_of(settings)
        if "sig=" in secret:
            return {"sas_token": secret.removeprefix("?"), "expires_at": fresh}
        base64.b64decode(secret, validate=True)  # raises ValueError: the library would fail at each request
        return {"access_key": secret, "expires_at": fresh}

    if settings.credentials == "keys":
        keys()
        return AzureStore(bucket, config=config, client_options=options, retry_config=RETRY, credential_provider=keys)
    return AzureStore(bucket, config=config, client_options=options, retry_config=RETRY)


def secret_of(settings: StoreSettings) -> str:
    """Reads a file each time: a mounted secret may be rotated."""
    if settings.secret_file:
        return settings.secret_file.read_text().strip()
    return settings.secret.get_secret_value()
