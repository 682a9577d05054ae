"""Any image-text checkpoint whose class transformers has: its own class, processor and chat template.

chat.py        the chat template, taken apart around the words of a turn
spelling.py    which ids a tokenizer can make of a user's words
template.py    the template on its tokenizer, and the proof that a user's words never become structure
processor.py   transformers' processor without its video processor
pictures.py    the pictures of one prompt as the processor takes them
network.py     transformers' class: the shared prefix once, each question on a copy of its cache
family.py      the checkpoint's small files, read and checked
classifier.py  windows in, scores out
loading.py     from the settings to the classifier, and its checks at start
"""

from moderation.models.contract import Kind

TRIED = (
    "chat template, ids, pictures and scores against transformers' own processor and class, and questions on a shared "
    "prefix against prompts of their own, on small seeded checkpoints"
)
UNSEEN = "the published weights and their accuracy; bfloat16 on a GPU"
PROVEN = "tokens of its own end a turn"
SPELLED = "words end a turn, which are tokenised letter by letter where a user writes them"

# The kinds that tests run. `load` takes others too, and checks each checkpoint at start.
KINDS = (
    Kind("llava", "LLaVA 1.5", "LlavaForConditionalGeneration", SPELLED, TRIED, UNSEEN),
    Kind("qwen2_5_vl", "Qwen2.5-VL", "Qwen2_5_VLForConditionalGeneration", PROVEN, TRIED, UNSEEN),
    Kind("smolvlm", "SmolVLM", "SmolVLMForConditionalGeneration", PROVEN, TRIED, UNSEEN),
    Kind("gemma3", "Gemma 3", "Gemma3ForConditionalGeneration", PROVEN, TRIED, UNSEEN),
    Kind("shieldgemma2", "ShieldGemma 2", "ShieldGemma2ForImageClassification", PROVEN, TRIED, UNSEEN),
    Kind("internvl", "InternVL", "InternVLForConditionalGeneration", PROVEN, TRIED, UNSEEN),
)
