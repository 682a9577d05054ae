"""Commands of Kafka's own tools, as an operator types them."""

from __future__ import annotations

from moderation.settings import KafkaSettings

ADMIN_FILE = "admin.properties"  # an operator's own file: how to reach brokers that do not speak PLAINTEXT


def command(settings: KafkaSettings, tool: str, arguments: str) -> str:
    """The command line. Where clients authenticate or encrypt, the tool needs a file that says how."""
    secured = "" if settings.security_protocol == "PLAINTEXT" else f"--command-config {ADMIN_FILE} "
    return f"{tool} --bootstrap-server {settings.bootstrap} {secured}{arguments}"
