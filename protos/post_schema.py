"""The rules of posts in JSON Schema, as moderation/wire has them. generate.py puts them into post.schema.json.

JSON Schema counts characters. Where a rule counts bytes, the widest character of a text decides how many it may have.
Characters of control are literal in the patterns, since their escapes differ between engines of regular expressions.
"""

from __future__ import annotations

from typing import Any

from moderation.types import MAX_LABEL_BYTES
from moderation.wire.ids import MAX_ID_BYTES
from moderation.wire.images import MAX_URI_BYTES

Schema = dict[str, Any]

# Engines keep a stack for groups of characters: of longer texts, the characters alone are checked.
GROUPED_CHARS = 1_024
EMPTY: Schema = {"enum": ["", None]}
URL = "[Dd][Aa][Tt][Aa]:"


def text(max_bytes: int, name: str) -> Schema:
    """A text without control characters."""
    widths = (("\x7f", 1), ("\u07ff", 2), ("\uffff", 3))  # the last character of each width in UTF-8
    return {
        "description": f"{name}: up to {max_bytes:,} bytes in UTF-8, no control characters.",
        "anyOf": [
            *({"maxLength": max_bytes // width, "pattern": f"^[\0-{last}]*$"} for last, width in widths),
            {"maxLength": max_bytes // 4},
        ],
        "not": {"type": "string", "pattern": "[\0-\x1f\x7f-\x9f]"},
    }


def base64(before: str, gaps: str, name: str) -> Schema:
    """Base64 in one alphabet. `before`: a pattern, ends with a comma if it is not empty. `gaps`: are skipped."""
    gap, one, pad = f"[{gaps}]*", f"[A-Za-z0-9+/_-][{gaps}]*", f"=[{gaps}]*"
    body = ",[^,]*" if before else ""
    return {
        "description": f"{name}: base64, standard or URL-safe, with or without padding and line breaks.",
        "pattern": f"^{before}{gap}{one}[A-Za-z0-9+/_{gaps}-]*[={gaps}]*$",
        "not": {"allOf": [{"pattern": f"{body}[+/]"}, {"pattern": f"{body}[_-]"}]},
        "if": {"maxLength": GROUPED_CHARS},
        "then": {"pattern": f"^{before}{gap}((?:{one}){{4}})*((?:{one}){{2}}({pad}{pad})?|(?:{one}){{3}}({pad})?)?$"},
    }


def reference(name: str) -> Schema:
    """A reference to a definition of DEFINITIONS."""
    return {"$ref": f"#/$defs/{name}"}


DEFINITIONS: dict[str, Schema] = {
    "id": text(MAX_ID_BYTES, "An id"),
    "label": text(MAX_LABEL_BYTES, "A label"),
    "reference": text(MAX_URI_BYTES, "A reference")
    | {"pattern": "^([Ff][Ii][Ll][Ee]:|([Ss]3|[Gg][Ss]|[Aa][Zz]|[Hh][Tt][Tt][Pp][Ss])://)"},
    "file": base64("", "\\r\\n", "A file"),
    "dataUrl": base64(f"{URL}[^,#]*;[Bb][Aa][Ss][Ee]64,", "\\t\\r\\n", "A file as a data: URL"),
}
# By the full name of a message or of a field.
RULES: dict[str, Schema] = {
    "moderation.v1.Post": {"required": ["id"]},
    "moderation.v1.Post.id": {"type": "string", "minLength": 1} | reference("id"),
    "moderation.v1.Post.tenant": reference("label"),
    "moderation.v1.Post.language": reference("label"),
    "moderation.v1.Post.surface": reference("label"),
    "moderation.v1.Image": {
        "oneOf": [
            {
                "required": ["data"],
                "properties": {
                    "data": {"type": "string", "anyOf": [reference("file"), reference("dataUrl")]},
                    "uri": EMPTY,
                },
            },
            {
                "required": ["uri"],
                "properties": {
                    "uri": {
                        "type": "string",
                        "minLength": 1,
                        "if": {"pattern": f"^{URL}"},
                        "then": reference("dataUrl"),
                        "else": reference("reference"),
                    },
                    "data": EMPTY,
                },
            },
        ]
    },
}
