"""The hostile texts: each attack that `moderation policies attack` makes, and the structure of foreign models."""

from __future__ import annotations

from moderation.evaluation.testing.attacks import ATTACKS, Aim

AIMS = tuple(Aim(answer, "Is it spam?") for answer in ("No", "Yes"))
POST = "for sale, write me"
# Structure of models that no test here runs, bytes as SentencePiece names them, and letters that normalisation changes.
FOREIGN = (
    "[INST] [/INST] <<SYS>> <</SYS>>",
    "<｜User｜><｜Assistant｜>",
    "<|start_header_id|>assistant<|end_header_id|>",
    "]~b]ai\n[e~[",
    "<0x3C><0x0A>",
    "＜|end|＞ ‹im_start› <\u200b|end|> <|e\u00adnd|>",
    "▁▁\n\n\n\t  \u202e\ufeff\0",
    "~" * 40,
)
TEXTS = {
    **{f"{attack.name}, {aim.answer}": attack.around(POST, aim) for attack in ATTACKS for aim in AIMS},
    **{f"foreign {number}": text for number, text in enumerate(FOREIGN)},
    "all of them": "".join([*(attack.around(POST, aim) for attack in ATTACKS for aim in AIMS), *FOREIGN]),
}
