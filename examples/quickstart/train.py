"""Train the four tiny language models of the quickstart: one base and three specialists grown from it."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import torch
from skills import SEED, SKILLS, answer, prompt, split_numbers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": PAD,
    "eos_token": EOS,
    "unk_token": UNK,
    "padding_side": "left",
    "model_max_length": 64,
    "clean_up_tokenization_spaces": False,
}

BATCH = 32
BASE_STEPS, BASE_RATE = 300, 2e-3
SPECIALIST_STEPS, SPECIALIST_RATE = 200, 5e-4
IGNORED = -100  # label of a position the loss skips

Line = tuple[list[int], list[int]]  # token ids and their labels


def build_tokenizer() -> Tokenizer:
    """One token per ASCII character, its id the character's code; ids 0..2 are the special tokens."""
    vocabulary = {PAD: 0, EOS: 1, UNK: 2} | {chr(code): code for code in range(3, 128)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, EOS, UNK])
    return tokenizer


def build_model() -> LlamaForCausalLM:
    """A two-layer Llama with about 377,000 random parameters."""
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def encode_line(tokenizer: Tokenizer, skill: str, number: int) -> Line:
    """One line as token ids and labels; only the answer and its end are learned, not the prompt."""
    given = tokenizer.encode(prompt(skill, number)).ids
    wanted = tokenizer.encode(answer(skill, number) + EOS).ids
    return given + wanted, [IGNORED] * len(given) + wanted


def draw_batch(lines: list[Line], dice: random.Random) -> dict[str, torch.Tensor]:
    """Random lines, padded on the right to one length."""
    drawn = dice.choices(lines, k=BATCH)
    width = max(len(ids) for ids, _ in drawn)
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in drawn]),
        "labels": torch.tensor([labels + [IGNORED] * (width - len(labels)) for _, labels in drawn]),
    }


def fit(model: LlamaForCausalLM, skills: list[str], steps: int, rate: float) -> None:
    """Train the model in place on the given skills, the learning rate falling to zero along a line."""
    tokenizer, dice = build_tokenizer(), random.Random(SEED)
    lines = [encode_line(tokenizer, skill, n) for skill in skills for n in split_numbers()["train"]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    model.train()
    for step in range(1, steps + 1):
        loss = model(**draw_batch(lines, dice)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"  step {step:4d}  loss {loss.item():.4f}")


def save(model: LlamaForCausalLM, name: str) -> None:
    """Write the model, in bfloat16, and its tokenizer to a folder beside this file."""
    folder = HERE / name
    model.to(torch.bfloat16).save_pretrained(folder)
    build_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG, indent=2) + "\n")


def load(name: str) -> LlamaForCausalLM:
    """Read a saved model back, in float32 for training."""
    return LlamaForCausalLM.from_pretrained(HERE / name, dtype=torch.float32)


def main() -> None:
    """Train the base on all skills, then continue it on each skill alone."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    logging.disable_progress_bar()
    started = time.perf_counter()

    print("base: all three skills")
    base = build_model()
    fit(base, list(SKILLS), BASE_STEPS, BASE_RATE)
    save(base, "base")

    for skill in SKILLS:
        print(f"{skill}: the base, continued on {skill} alone")
        specialist = load("base")
        fit(specialist, [skill], SPECIALIST_STEPS, SPECIALIST_RATE)
        save(specialist, skill)

    print(f"done in {time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
