"""Score model folders on the 200 held-out numbers: the share of answers that are right to the letter."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from skills import SKILLS, answer, prompt, split_numbers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
TRAINED = [HERE / name for name in ("base", *SKILLS)]
USUAL_MERGES = [Path("merged/ties"), Path("merged/task_arithmetic")]
LONGEST_ANSWER = 40  # tokens; the longest right answer has 30 characters


class BadFolderError(Exception):
    """A folder that holds no model to score."""


@dataclass(frozen=True)
class Candidate:
    """A model ready to be scored, under the name its row shows."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(folder: Path) -> Candidate:
    """Read a model, in float32, and its tokenizer from a folder."""
    if not has_model(folder):
        raise BadFolderError(f"no model in {folder} (it has no config.json)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(": ")
        raise BadFolderError(f"cannot load the model in {folder}: {reason}") from error
    return Candidate(display_name(folder), model, tokenizer)


def has_model(folder: Path) -> bool:
    """Whether the folder looks like a saved model."""
    return (folder / "config.json").is_file()


def display_name(folder: Path) -> str:
    """The trained models by their bare name, every other folder as it was given."""
    return folder.name if folder in TRAINED else str(folder)


def complete(candidate: Candidate, prompts: list[str]) -> list[str]:
    """What the model writes after each prompt, always taking its likeliest next token."""
    tokenizer = candidate.tokenizer
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
    output = candidate.model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=LONGEST_ANSWER,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    written = output[:, batch["input_ids"].shape[1] :]
    return tokenizer.batch_decode(written, skip_special_tokens=True)


def exact_match(candidate: Candidate, skill: str, numbers: list[int]) -> float:
    """Share of the numbers the model spells right to the letter."""
    written = complete(candidate, [prompt(skill, number) for number in numbers])
    right = [text == answer(skill, number) for text, number in zip(written, numbers, strict=True)]
    return sum(right) / len(right)


def print_table(candidates: list[Candidate], numbers: list[int]) -> None:
    """Score the models one after the other, each row shown as soon as it is known."""
    width = max(len(candidate.name) for candidate in candidates)
    print("model".ljust(width) + "".join(f"{title:>10}" for title in (*SKILLS, "mean")))
    for candidate in candidates:
        scores = [exact_match(candidate, skill, numbers) for skill in SKILLS]
        cells = [*scores, sum(scores) / len(scores)]
        print(candidate.name.ljust(width) + "".join(f"{cell:10.3f}" for cell in cells), flush=True)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, metavar="MODEL_FOLDER", help="a merged model to add")
    parser.add_argument(
        "--numbers",
        choices=["heldout", "validation"],
        default="heldout",
        help="score on the held-out numbers (default), or on those set aside for choosing merge settings",
    )
    return parser.parse_args()


def main() -> int:
    """Print the table; return 2 when a folder holds no model."""
    arguments = parse_arguments()
    merges = arguments.folders or [folder for folder in USUAL_MERGES if has_model(folder)]
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        candidates = [load(folder) for folder in TRAINED + merges]
    except BadFolderError as error:
        print(f"score.py: {error}", file=sys.stderr)
        return 2
    print_table(candidates, split_numbers()[arguments.numbers])
    return 0


if __name__ == "__main__":
    sys.exit(main())
