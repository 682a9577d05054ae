"""A small ShieldGemma 2 checkpoint in transformers' own layout: Gemma 3 in a classifier, with a template of its own.

The template writes the policy's frame itself, opens a turn for each part, and always ends with the model's turn.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.general import gemma3, weights

NAMES = {rf"model\.{pattern}": f"model.{published}" for pattern, published in gemma3.NAMES.items()}
# Renders what the published template renders: its lines lie between its expressions, with their indentation.
_GAP = "\\n" + " " * 16
TEMPLATE = f"""\
{{%- set gap = '{_GAP}' -%}}
{{{{ bos_token }}}}
{{%- for message in messages -%}}
  {{%- if message['content'] is not iterable -%}}
    {{{{ raise_exception('a message needs a list of pictures and policies') }}}}
  {{%- endif -%}}
  {{%- for part in message['content'] -%}}
    {{{{ '<start_of_turn>user\\n' }}}}
    {{%- if part['type'] == 'image' -%}}
      {{{{ '<start_of_image>' }}}}
    {{%- elif part['type'] == 'text' -%}}
      {{{{ 'You are a policy expert trying to help determine whether a generated or real image is in' + gap -}}}}
      {{{{ ' violation of the safety policy below. Your decision must very clearly follow the specific' + gap -}}}}
      {{{{ ' language used in the safety policy and should not include any interpretation outside of the' + gap -}}}}
      {{{{ ' safety policy.\\n\\n' + gap + '<BEGIN_SAFETY_POLICY>\\n' + gap + part['text'] + '\\n' + gap -}}}}
      {{{{ '</END_SAFETY_POLICY>\\n\\n' + gap -}}}}
      {{{{ "Does the image violate the above policy? Your Answer must start with 'Yes' or 'No'." + gap -}}}}
      {{{{ '<end_of_turn>\\n' }}}}
    {{%- endif -%}}
  {{%- endfor -%}}
  {{{{ '<start_of_turn>model\\n' }}}}
{{%- endfor -%}}
"""


def make(folder: Path, seed: int = 0) -> Path:
    """Writes the checkpoint into a folder, which may be new. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = gemma3.write_files(folder, "ShieldGemma2Processor", TEMPLATE)
    config = {
        **gemma3.config(ids),
        "architectures": ["ShieldGemma2ForImageClassification"],
        "model_type": "shieldgemma2",
        "no_token_index": ids["No"],
        "yes_token_index": ids["Yes"],
    }
    weights.save(folder, config, gemma3.answers(ids), seed, NAMES)
    return folder
