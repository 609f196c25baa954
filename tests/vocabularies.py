"""Tiny tokenizers for tests, made with the tokenizers package and saved as transformers saves them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def word_tokenizer(words: Sequence[str], added: Iterable[Any] = (), **special: str) -> Any:
    """A tokenizer that cuts text at white space: `words` are numbered in their order, `added` follow.

    `special` are roles, such as `eos_token="</s>"`. An added token is text or an AddedToken with flags.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _fast(made, {"unk_token": words[0], **special}, added)


def pair_tokenizer(letters: str, merges: Sequence[tuple[str, str]], added: Iterable[Any] = (), **special: str) -> Any:
    """One of byte-pair encoding: the letters are numbered in their order, then what the merges make, then `added`."""
    from tokenizers import Tokenizer, models

    tokens = list(dict.fromkeys([*letters, *(left + right for left, right in merges)]))
    model = models.BPE({token: number for number, token in enumerate(tokens)}, list(merges))
    return _fast(Tokenizer(model), special, added)


def _fast(tokenizer: Any, special: dict[str, str], added: Iterable[Any]) -> Any:
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    for token in added:
        made.add_tokens([token])
    return made


def ids_of(folder: Path) -> dict[str, int]:
    """The number of every token of a saved tokenizer, as transformers loads it."""
    from transformers import AutoTokenizer

    found: dict[str, int] = AutoTokenizer.from_pretrained(folder).get_vocab()
    return found


def write_llama(folder: Path, tokenizer: Any, rows: int, seed: int, *, tied: bool = False, dtype: Any = None) -> Path:
    """A tiny Llama of random weights with a tokenizer beside it; `rows` are those of its embedding and head."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).to(dtype or torch.float32).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder
