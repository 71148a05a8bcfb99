"""The seed model's own tokenizer: byte-level BPE, so that any text in any script goes in and comes out.

Runs of Han characters and single digits are split from the rest before merging: else a Latin name glues to the
Chinese text after it and merges depend on the name.
"""

from collections.abc import Iterable
from pathlib import Path

from llmagentos.models.chat import CALL

SPECIALS = ("<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|tools|>", CALL)

TEMPLATE = """\
{%- if tools %}{{ '<|tools|>' }}{% for t in tools %}{% set f = t.function if t.function is defined else t %}
{{- f.name + '(' + ((f.parameters.properties if f.parameters is defined and f.parameters.properties is defined else {})
    | list | join(',')) + ')' + ('' if loop.last else ' ') }}{% endfor %}{{ '<|end|>' }}{% endif %}
{%- for m in messages %}
{%- set role = 'system' if m.role == 'developer' else m.role %}
{{- '<|' + role + '|>' + m.content }}
{%- for c in m.tool_calls or [] %}
{{- '<|call|>' + c.function.name }}
{{- c.function.arguments if c.function.arguments is string else c.function.arguments | tojson(separators=(',', ':')) }}
{%- endfor %}{{ '<|end|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}
"""


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> None:
    """Train on texts and save a tokenizer folder that transformers and `Renderer` both read."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[\p{Han}]+"), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=list(SPECIALS[2:]),
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(str(folder))
