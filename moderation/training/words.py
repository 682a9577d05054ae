"""The tokenizer and config of the small checkpoint: words of its world have tokens of their own, all else is spelt.

Its files are those of the seeded checkpoint with another vocabulary and other sizes, so there is one place that knows
the published layout.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from moderation.dev import checkpoint
from moderation.models.shared.tokenizer import Tokenizer
from moderation.policies import prompts
from moderation.training import phrasings, sayings
from moderation.training.world import GROUPS, MADE_UP, THINGS
from moderation.types import Content, Question

HIDDEN, LAYERS, HEADS, INTERMEDIATE = 192, 4, 6, 512
TOWER, TOWER_LAYERS, TOWER_HEADS, TOWER_INTERMEDIATE = 128, 5, 4, 512
CAUTION = "it knows a small synthetic world of pictographs only: it is no moderation model for people"
NEAR = 5  # pairs
SPACE = "▁"
TOKENIZED = 30_000  # texts and policies that the vocabulary is counted from
MIN_COUNT = 6  # occurrences that make a word known


def write(folder: Path, *, crops: int) -> None:
    """The checkpoint's JSON files."""
    with tempfile.TemporaryDirectory() as name:
        draft = checkpoint.seeded(Path(name) / "draft")
        for file in draft.glob("*.json"):
            (folder / file.name).write_text(file.read_text())
    tokenizer = _read(folder / "tokenizer.json")
    old = len(tokenizer["model"]["vocab"])
    vocabulary, merges = _vocabulary()
    for token in tokenizer["added_tokens"]:
        token["id"] += len(vocabulary) - old if token["id"] >= old else 0
    # "Yes" and "yes", "GUNS" and "guns" are one token: the world is too small to teach each word in every case.
    tokenizer["normalizer"]["normalizers"].insert(0, {"type": "Lowercase"})
    tokenizer["model"] |= {"vocab": vocabulary, "merges": merges}
    _write(folder / "tokenizer.json", tokenizer)

    config = _read(folder / "config.json")
    pairs = HIDDEN // HEADS // 2
    config |= {
        "caution": CAUTION,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "pad_token_id": len(vocabulary),
        "torch_dtype": "float16",
        "vocab_size": -(-(len(vocabulary) + len(tokenizer["added_tokens"]) - 3) // 64) * 64,
    }
    # Some pairs of a head rotate with the position, so that tokens find their neighbours. The others hardly rotate, so
    # that a policy's word finds the same word anywhere in the post.
    factors = [1.0] * NEAR + [16.0] * (pairs - NEAR)
    config["rope_scaling"] = {"type": "su", "short_factor": factors, "long_factor": [4 * factor for factor in factors]}
    config["img_processor"]["image_dim_out"] = TOWER
    config["img_processor"]["vision_config"] |= {
        "hidden_size": TOWER,
        "intermediate_size": TOWER_INTERMEDIATE,
        "num_attention_heads": TOWER_HEADS,
        "num_hidden_layers": TOWER_LAYERS + 1,  # the features are those of the last layer but one
    }
    _write(folder / "config.json", config)
    preprocessor = _read(folder / "preprocessor_config.json")
    _write(folder / "preprocessor_config.json", preprocessor | {"num_crops": crops})


def _vocabulary() -> tuple[dict[str, int], list[list[str]]]:
    """Tokens and merges. A word is a space or a line's start and the letters after it, merged letter by letter.

    The prompt's fixed lines are merged from words into one token, since every post has them.
    """
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), SPACE, "\n"]
    tokens += [chr(code) for code in range(ord("!"), ord("~") + 1) if not chr(code).isupper()]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    merges: list[list[str]] = []

    def merge(left: str, right: str) -> str:
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append([left, right])
        return left + right

    for word in _words():
        left = word[0]
        for letter in word[1:]:
            left = merge(left, letter)
    for line in _lines():
        parts = _pieces(line)
        left = parts[0]
        for part in parts[1:]:
            left = merge(left, part)
    return vocabulary, merges


def _words() -> list[str]:
    random = Random(0)
    counts: Counter[str] = Counter()
    for _ in range(TOKENIZED):
        things = random.sample(THINGS, random.randrange(3))
        said = sayings.say(random, list(things), training=False, unseen=random.random() < 0.5)
        rule = phrasings.rule(random, said.truth(frozenset()), groups=random.choice((None, tuple(GROUPS))))
        policy = phrasings.phrase(random, rule, unseen=random.random() < 0.5)
        for text in (said.text, *prompts.render(Content(said.text, (), ""), [Question("", policy.prose)]).branches):
            counts.update(piece for piece in _pieces(SPACE + text) if len(piece) > 1)
    fixed = [piece for line in _lines() for piece in _pieces(line) if len(piece) > 1]
    names = [start + name for name in ("yes", "no", *GROUPS, *MADE_UP) for start in (SPACE, "\n")]
    forms = {form.split(" ")[-1] for thing in THINGS for form in (thing.name, thing.one, thing.many)}
    names += [start + form for form in sorted(forms) for start in (SPACE, "\n")]
    return sorted({*fixed, *names, *(word for word, count in counts.items() if count >= MIN_COUNT)})


def _lines() -> tuple[str, ...]:
    """What stands word for word in every prompt, or in every policy."""
    return (
        f"\n{prompts.INSTRUCTIONS}",
        f"\n{prompts.FENCED}\n~~~\n",
        f"\n{prompts.NO_TEXT}\n",
        "\n~~~\n",
        "\nIt is violated by a post that:\n-",
        f"\n{prompts.ASK}",
    )


def _pieces(text: str) -> list[str]:
    """Words with what stands before them, and single other characters, as the merges of words leave them."""
    return re.findall(rf"[{SPACE}\n](?:[\w']+|-)?|.", text.lower().replace(" ", SPACE))


def names(tokenizer: Tokenizer) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    """Ids of the words for each thing, each group and each made-up word, where they follow a space and where they begin
    a line."""
    words = [{form.split(" ")[-1] for form in (thing.name, thing.one, thing.many)} for thing in THINGS]
    things = [[tokenizer.word(word) for word in sorted(some)] for some in words]
    groups, made_up = (
        [[tokenizer.word(name), tokenizer.trusted("\n" + name)[-1]] for name in some] for some in (GROUPS, MADE_UP)
    )
    return things, groups, made_up


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
