"""Tiny real models, made from configs and seeds: a base and three fine-tunes whose deltas are smaller than the base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


@dataclass(frozen=True)
class Family:
    """Four model folders below `folder`: `base`, and the fine-tunes `a`, `b`, `c`."""

    folder: Path
    base: Path
    a: Path
    b: Path
    c: Path

    @property
    def tunes(self) -> tuple[Path, Path, Path]:
        return self.a, self.b, self.c


def llama_config() -> Any:
    """Untied, grouped-query attention, three layers."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )


def qwen2_config() -> Any:
    """Tied head, biases in attention."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=80,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )


def gpt2_config() -> Any:
    """Fused attention projections, transposed weights, tied head."""
    from transformers import GPT2Config

    return GPT2Config(vocab_size=72, n_positions=32, n_embd=24, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)


def mixtral_config() -> Any:
    """Four experts per layer."""
    from transformers import MixtralConfig

    return MixtralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        max_position_embeddings=64,
    )


def bert_config() -> Any:
    """An encoder with post-norms and a classifier."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=64,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=32,
    )


_SMALL: dict[str, int] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def gemma2_config() -> Any:
    """Tied head, a list that says of each layer how it attends."""
    from transformers import Gemma2Config

    return Gemma2Config(**_SMALL, head_dim=4)


def t5_config() -> Any:
    """An encoder and a decoder with one embedding, numbered as blocks."""
    from transformers import T5Config

    return T5Config(
        vocab_size=40, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
    )


def whisper_config() -> Any:
    """Speech: convolutions, positions that are stored, an encoder and a decoder."""
    from transformers import WhisperConfig

    layers = {f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in _WHISPER_PART.items()}
    sizes = {"vocab_size": 40, "d_model": 16, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    return WhisperConfig(**sizes, **layers, **ids, suppress_tokens=None, begin_suppress_tokens=None)


_WHISPER_PART = {"layers": 2, "attention_heads": 2, "ffn_dim": 24}


def llava_config() -> Any:
    """A vision tower, a projector and a language model."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**vision, image_size=8, patch_size=4),
        text_config=LlamaConfig(**_SMALL),
        image_token_index=39,
    )


def granite_config() -> Any:
    """Multipliers in the config; biases that a model may have or not."""
    from transformers import GraniteConfig

    return GraniteConfig(**_SMALL, attention_bias=True)


def opt_config() -> Any:
    """A decoder behind a prefix of its own, with learnt positions; mergekit has no definition of it."""
    from transformers import OPTConfig

    sizes = {"vocab_size": 40, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24}
    return OPTConfig(**sizes, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=16)


_CONFIGS: dict[str, tuple[Callable[[], Any], str]] = {
    "llama": (llama_config, "AutoModelForCausalLM"),
    "qwen2": (qwen2_config, "AutoModelForCausalLM"),
    "gpt2": (gpt2_config, "AutoModelForCausalLM"),
    "mixtral": (mixtral_config, "AutoModelForCausalLM"),
    "bert": (bert_config, "AutoModelForSequenceClassification"),
    "granite": (granite_config, "AutoModelForCausalLM"),
    "opt": (opt_config, "AutoModelForCausalLM"),
    "gemma2": (gemma2_config, "AutoModelForCausalLM"),
    "t5": (t5_config, "AutoModelForSeq2SeqLM"),
    "whisper": (whisper_config, "AutoModelForSpeechSeq2Seq"),
    "llava": (llava_config, "AutoModelForImageTextToText"),
}
ARCHITECTURES = tuple(_CONFIGS)


def auto_class(architecture: str) -> Any:
    import transformers

    return getattr(transformers, _CONFIGS[architecture][1])


def make_family(architecture: str, folder: Path, dtype: torch.dtype, noise: float = 0.01) -> Family:
    """Write base, a, b and c; each fine-tune is the base plus its own small noise in every tensor."""
    config, _ = _CONFIGS[architecture]
    torch.manual_seed(0)
    model = auto_class(architecture).from_config(config())
    with torch.no_grad():  # biases and norms are initialised to constants; models that were trained have none
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number, label in enumerate(("base", "a", "b", "c")):
        generator = torch.Generator().manual_seed(number)
        model.load_state_dict(base)
        with torch.no_grad():
            for parameter in model.parameters() if number else ():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
        model.to(dtype).save_pretrained(folder / label)
        model.to(torch.float32)
    return Family(folder, *(folder / label for label in ("base", "a", "b", "c")))


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a model folder, by name."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    return found
