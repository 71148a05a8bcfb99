"""Flash attention of rows that stand end to end, on CUDA: each row attends to itself by its borders, and no mask is made.

Without it packed rows go through SDPA with a mask over every pair of tokens, which no flash kernel takes. Batches carry the
borders, made once for all layers; attention that cannot be done so keeps its masks.
"""

import inspect
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # of a torch that does not have it yet
    varlen_attn = None

_GROUPED = {"enable_gqa": True} if varlen_attn and "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""Query heads may share a key head; torch 2.11 takes that unasked."""
NAME = "rows_end_to_end"
"""transformers asks of a name with `flash` in it that it be a package of kernels."""
_PROBE = "rows_end_to_end_probe"
_LARGEST_HEAD = 256
_HALVES = (torch.bfloat16, torch.float16)
_OTHER = ("softcap", "s_aux", "position_bias")
"""What some attention has beside queries, keys and values."""


def install(model: Any) -> bool:
    """Let a model on CUDA attend so; False where it stays as it is: another device, attention or type of weights."""
    if varlen_attn is None or model.config._attn_implementation != "sdpa" or model.dtype not in _HALVES or not on_cuda(model):
        return False
    if not _suits(model):
        return False
    AttentionMaskInterface.register(NAME, mask)
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def on_cuda(model: Any) -> bool:
    """Whether its weights are on a GPU that flash attention knows."""
    return model.device.type == "cuda" and torch.cuda.get_device_capability(model.device) >= (8, 0)


def takes_borders(model: Any) -> bool:
    """Whether a model, wrapped or not, wants to be told where packed rows begin."""
    config = getattr(getattr(model, "module", model), "config", None)
    return str(getattr(config, "_attn_implementation", "")).startswith((NAME, "flash_attention"))


def mask(
    *, q_length: int, kv_length: int, q_offset: Any = 0, attention_mask: torch.Tensor | None = None, use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:  # fmt: skip
    """None where each row sees itself and what precedes it, which needs no mask; SDPA's elsewhere."""
    if attention_mask is None and not use_vmap and q_length == kv_length:
        return None
    lengths = {"q_length": q_length, "kv_length": kv_length, "q_offset": q_offset}
    return sdpa_mask(attention_mask=attention_mask, use_vmap=use_vmap, **lengths, **kwargs)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Queries [B, H, L, D] over their rows' keys and values [B, Hₖ, L, D] -> [B, L, H, D]."""
    rows, _, length, _ = query.shape
    if attention_mask is not None or (cu_seq_lens_q is None and (sliding_window is None or length <= sliding_window)):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if cu_seq_lens_q is None or max_length_q is None:
        cu_seq_lens_q = torch.arange(0, (rows + 1) * length, length, dtype=torch.int32, device=query.device)
        max_length_q = length
    flat = (states.to(value.dtype).transpose(1, 2).flatten(0, 1) for states in (query, key, value))
    # The token itself is one of the window.
    window = (-1 if sliding_window is None else sliding_window - 1, 0)
    attended = varlen_attn(
        *flat, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling, window_size=window, **_GROUPED
    )
    return attended.unflatten(0, (rows, length)), None


def _suits(model: Any) -> bool:
    """Whether all that the model's attention asks for can be had: found by a pass over two tokens.

    Its masks' windows must be those that its layers name, or a window, a chunk, would be lost with the mask.
    """
    masked: set[int | None] = set()
    named: set[int | None] = set()
    suitable = []

    def note_mask(local_size: int | None = None, **kwargs: Any) -> None:
        masked.add(local_size)

    def note(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        named.add(kwargs.get("sliding_window"))
        plain = not kwargs.get("dropout") and not any(kwargs.get(name) is not None for name in _OTHER)
        head = query.shape[-1] == value.shape[-1] <= _LARGEST_HEAD and value.shape[-1] % 8 == 0
        suitable.append(plain and head and value.dtype in _HALVES)
        return query.new_zeros(*query.shape[:-1], value.shape[-1]).transpose(1, 2).to(value.dtype), None

    AttentionMaskInterface.register(_PROBE, note_mask)
    AttentionInterface.register(_PROBE, note)
    before, training = model.config._attn_implementation, model.training
    model.set_attn_implementation(_PROBE)
    try:
        with torch.no_grad():
            model.train()(input_ids=torch.zeros(1, 2, dtype=torch.long, device=model.device), use_cache=False)
    finally:
        model.set_attn_implementation(before)
        model.train(training)
    return bool(suitable) and all(suitable) and masked == named
