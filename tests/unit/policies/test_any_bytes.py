"""Policy files made of good ones by damage, and of any values: the promises that `make fuzz` holds for an hour."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from moderation.policies.schema import Policy
from tests.fuzz.mutations import mutated
from tests.fuzz.promises import policies
from tests.fuzz.seeds import SEEDS

FILES = list(SEEDS["policies"]())
SMALL = FILES[-1]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.text(max_size=20)
    | st.sampled_from(["live", "shadow", "L1", "de", "*", "remove", 0.5, 1]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["id", "text", "label", "review", "remove", "languages"]) | st.text(), inner)
    ),
    max_leaves=6,
)


# Found by the fuzzer.
FOUND = {
    "carriage returns in front of a mistake": b"id: lakes\ntitle: '\r\r\r\r\r\r\r'\nallows: x: y\n",
    "a line separator in front of a mistake": 'id: lakes\ntitle: "\u2028\u2028\u2028"\nallows: x: y'.encode(),
}


@pytest.mark.parametrize("file", FOUND.values(), ids=FOUND)
def test_what_the_fuzzer_found_keeps_the_promises(file: bytes) -> None:
    policies(file)


@pytest.mark.parametrize("file", FILES, ids=range(len(FILES)))
def test_good_files_keep_the_promises(file: bytes) -> None:
    policies(file)


@settings(max_examples=50)
@given(mutated(FILES))
def test_damaged_files_keep_the_promises(file: bytes) -> None:
    policies(file)


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(list(Policy.model_fields)), values, max_size=3), st.booleans())
def test_keys_of_any_values_keep_the_promises(changed: dict[str, Any], unicode: bool) -> None:
    members = yaml.safe_load(SMALL) | changed
    policies(yaml.safe_dump(members, allow_unicode=unicode, sort_keys=False).encode("utf-8", "surrogatepass"))
