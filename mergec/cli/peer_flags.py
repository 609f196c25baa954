"""mergekit's commands and options, and what each is here: answers to who gives one to mergec, and a table of the docs."""

# ruff: noqa: E501 - a row is one line

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mergec.errors import UsageError

NOT_HERE = "not here: "
_NOT_NEEDED = "not needed: "
_PAGE = "docs/coming-from-mergekit.md has all"
_LINK = re.compile(r" \(\[\w+\]\([\w.-]+\)\)")


class Tool(NamedTuple):
    """A command of mergekit's, the commands of mergec that do its work, and how."""

    name: str
    here: str
    commands: tuple[str, ...] = ()


class Flag(NamedTuple):
    """An option of mergekit's in its spellings, and what to do instead; `tool` is "" where most of its commands have it."""

    tool: str
    names: tuple[str, ...]
    here: str

    @property
    def is_same(self) -> bool:
        """Whether it has its name here too."""
        return self.here.endswith(", the same")


TOOLS = (
    Tool("mergekit-yaml", "`mergec import OLD.yml -o NEW.yml`, then `mergec run NEW.yml OUT`", ("run", "check", "plan")),
    Tool("mergekit-multi", "`mergec run` of the same file: the last recipe is written, the others are its stages", ("run",)),
    Tool("mergekit-pytorch", "`mergec run`: a model may be a `.pt`, `.bin` or `.safetensors` file", ("run",)),
    Tool("mergekit-moe", "`mergec moe RECIPE OUT`, or `mergec run`, of the same file ([mixtures](moe.md))", ("moe",)),
    Tool("mergekit-extract-lora", "`mergec extract-lora BASE MODEL OUT` ([inputs](inputs.md)); embeddings with `--save-embeddings`", ("extract-lora",)),
    Tool("mergekit-tokensurgeon", "`mergec tokens MODEL DONOR OUT` ([tokens](tokens.md))", ("tokens",)),
    Tool("mergekit-evolve", f"{NOT_HERE}it searches for recipes; `mergec import` takes the one that it finds"),
    Tool("mergekit-layershuffle", "`shuffle:` in a recipe does what that command, which fails at its start, is for ([shuffle](language.md))"),
    Tool("bakllama", "`mergec import OLD.yml`, which makes a passthrough of slices of it", ("run",)),
    Tool("mergekit-legacy", "a recipe: `mergec new METHOD` prints one, or import what its --print-yaml prints", ("run",)),
    Tool("fill_missing_params.py", "a recipe of `modules:`, each with the models that have it"),
)  # fmt: skip

_DEVICE = "`--device cuda`; the default, auto, takes a GPU where one is"
_STREAMS = (
    f"{_NOT_NEEDED}tensors are always streamed, in the memory that `mergec plan` states; `--max-memory` lowers it"
)
_WRITES = f"{_NOT_NEEDED}each of the `--workers` writes what it has computed"
_SEARCH = f"{NOT_HERE}mergec does not search; `run --set KEY=VALUE` runs a recipe with another value"
_RECIPE = "a recipe: `mergec new METHOD` prints one"

FLAGS = (
    Flag("", ("--allow-crimes", "--no-allow-crimes"), f"{_NOT_NEEDED}tensors are lined up by name; `mergec check` says what does not fit"),
    Flag("", ("--unsafe-truncate-embeddings", "--no-unsafe-truncate-embeddings"), "`tokenizer_source: truncate` in the recipe, and the config's vocab_size follows"),
    Flag("", ("--transformers-cache",), "the environment's `HF_HOME`, for weights, configs and tokenizers"),
    Flag("", ("--lora-merge-cache",), f"{_NOT_NEEDED}`BASE+ADAPTER` is computed tensor by tensor and never written"),
    Flag("", ("--lora-merge-dtype",), "`lora_merge_dtype: DTYPE` in the recipe"),
    Flag("", ("--cuda",), _DEVICE),
    Flag("", ("--no-cuda",), "`--device cpu`"),
    Flag("", ("--device",), "`--device`, the same"),
    Flag("", ("--low-cpu-memory", "--no-low-cpu-memory"), _STREAMS),
    Flag("", ("--out-shard-size",), "`--shard-size 5GB`; the suffixes k, M, G and T are decimal, KiB, MiB, GiB and TiB binary"),
    Flag("", ("--copy-tokenizer",), f"{_NOT_NEEDED}it is always copied; `tokenizer_source:` chooses whose"),
    Flag("", ("--no-copy-tokenizer",), f"{NOT_HERE}a model without its tokenizer is half a model"),
    Flag("", ("--clone-tensors", "--no-clone-tensors"), f"{_NOT_NEEDED}tensors of a result never share bytes"),
    Flag("", ("--trust-remote-code", "--no-trust-remote-code"), f"{_NOT_NEEDED}no code of a model is ever run"),
    Flag("", ("--random-seed",), "`--seed N`, or `seed:` in the recipe; with `random_order: mergekit` in it that tool's numbers are drawn"),
    Flag("", ("--lazy-unpickle", "--no-lazy-unpickle"), f"{_NOT_NEEDED}`.bin` and `.pt` files are read in place, and nothing in them is run"),
    Flag("", ("--write-model-card",), f"{_NOT_NEEDED}a card is always written"),
    Flag("", ("--no-write-model-card",), f"{NOT_HERE}the card and the recipe say what the model is; delete README.md"),
    Flag("", ("--safe-serialization",), f"{_NOT_NEEDED}results are always safetensors"),
    Flag("", ("--no-safe-serialization",), f"{NOT_HERE}results are always safetensors, and never pickles"),
    Flag("", ("-v", "--verbosity"), "`mergec plan` and `mergec explain` say what is done; `--json` prints every step"),
    Flag("", ("--quiet",), "`--quiet`, the same"),
    Flag("", ("--no-quiet",), f"{_NOT_NEEDED}it is so without `--quiet`"),
    Flag("", ("--read-to-gpu", "--no-read-to-gpu"), _DEVICE),
    Flag("", ("--multi-gpu", "--no-multi-gpu"), "`--device cuda`, which takes all GPUs there are; `--device cuda:N` takes one"),
    Flag("", ("--num-threads", "-j"), "`--workers N`"),
    Flag("", ("--gpu-rich",), _DEVICE),
    Flag("", ("--async-write", "--no-async-write", "--write-threads"), _WRITES),
    Flag("mergekit-multi", ("--out-path",), "the second argument: `mergec run RECIPE OUT`"),
    Flag("mergekit-multi", ("--intermediate-dir", "-I"), f"{_NOT_NEEDED}stages are computed where they are needed and never written"),
    Flag("mergekit-multi", ("--lazy",), f"{_NOT_NEEDED}tensors that are as they would be made are always taken over"),
    Flag("mergekit-multi", ("--no-lazy",), "`--rebuild`"),
    Flag("mergekit-pytorch", ("--tensor-intersection", "-i"), "`tensors: intersection` in the recipe"),
    Flag("mergekit-pytorch", ("--tensor-union", "-u"), "`tensors: union` in the recipe"),
    Flag("mergekit-moe", ("--load-in-4bit", "--load-in-8bit"), f"{NOT_HERE}prompts are run through the base as it is, loaded whole"),
    Flag("mergekit-moe", ("--i-understand-this-is-not-useful-without-training",), "a `noise_scale` for the experts, or `gate_mode: random`"),
    Flag("mergekit-extract-lora", ("--model",), "the second argument: `mergec extract-lora BASE MODEL OUT`"),
    Flag("mergekit-extract-lora", ("--base-model",), "the first argument: `mergec extract-lora BASE MODEL OUT`"),
    Flag("mergekit-extract-lora", ("--out-path",), "the third argument: `mergec extract-lora BASE MODEL OUT`"),
    Flag("mergekit-extract-lora", ("--max-rank",), "`--rank N` or `--max-rank N`, by default 32 (there 128)"),
    Flag("mergekit-extract-lora", ("--distribute-scale", "--no-distribute-scale"), f"{NOT_HERE}B is U S and A is V; their product is the same however S is shared out"),
    Flag("mergekit-extract-lora", ("--embed-lora",), "`--embed-lora`, the same"),
    Flag("mergekit-extract-lora", ("--no-embed-lora",), f"{_NOT_NEEDED}it is so without `--embed-lora`"),
    Flag("mergekit-extract-lora", ("--save-module",), "`--save-module`, the same"),
    Flag("mergekit-extract-lora", ("--exclude-regex", "-e"), "`-e`, `--exclude-regex`, the same"),
    Flag("mergekit-extract-lora", ("--include-regex", "-i"), "`-i`, `--include-regex`, the same"),
    Flag("mergekit-extract-lora", ("--sv-epsilon",), f"{NOT_HERE}all matrices have the rank of `--rank`, or their own if it is smaller"),
    Flag("mergekit-extract-lora", ("--skip-undecomposable",), f"{_NOT_NEEDED}what cannot be decomposed is listed; `--save-module` stores it whole"),
    Flag("mergekit-tokensurgeon", ("-k",), "`-k`, the same"),
    Flag("mergekit-tokensurgeon", ("--k",), "`-k N`"),
    Flag("mergekit-tokensurgeon", ("-a", "--approximation-method"), "`-a`, the same without `stb`, which fails there, and `mp_rope`"),
    Flag("mergekit-tokensurgeon", ("-w", "--weight-scheme"), "`-w`, the same"),
    Flag("mergekit-tokensurgeon", ("-s", "--subword-method"), "`-s`, the same"),
    Flag("mergekit-tokensurgeon", ("-c", "--cosine-similarity"), "`-c`, the same"),
    Flag("mergekit-tokensurgeon", ("-nc", "--no-cosine-similarity"), f"{_NOT_NEEDED}it is so without `-c`"),
    Flag("mergekit-tokensurgeon", ("-pm", "--prefix-match"), "`-pm`, the same"),
    Flag("mergekit-tokensurgeon", ("-bm", "--byte-match"), "`-bm`, the same"),
    Flag("mergekit-tokensurgeon", ("--batch-size",), f"{_NOT_NEEDED}`--max-memory` bounds what is held"),
    Flag("mergekit-tokensurgeon", ("--magikarp", "--no-magikarp"), f"{NOT_HERE}every row of a token counts"),
    Flag("mergekit-tokensurgeon", ("-nvn", "--new-vocab-noise", "-nvs", "--new-vocab-scale"), "`-nvn`, `-nvs`, the same"),
    Flag("mergekit-layershuffle", ("--model", "-m", "--weight", "-w"), "`shuffle: {models: [{model: A, weight: 3}, {model: B}], layers: 32}` in the recipe"),
    Flag("mergekit-layershuffle", ("--full-random",), "`full_random: true` under `shuffle:` in the recipe"),
    Flag("mergekit-layershuffle", ("--no-full-random",), f"{_NOT_NEEDED}it is so without `full_random: true`"),
    Flag("mergekit-layershuffle", ("--print-yaml", "--no-print-yaml", "--write-yaml"), "`mergec canon RECIPE`, `mergec new METHOD`"),
    Flag("mergekit-layershuffle", ("--dry-run",), "`mergec plan RECIPE`"),
    Flag("mergekit-layershuffle", ("--fp16", "--no-fp16"), "`dtype: float16` in the recipe"),
    Flag("bakllama", ("--fp16", "--no-fp16"), "`dtype: float16` in the recipe"),
    Flag("mergekit-legacy", ("--print-yaml", "--no-print-yaml"), "`mergec canon RECIPE`, `mergec new METHOD`"),
    Flag("mergekit-legacy", ("--merge", "--weight", "--density", "--method", "--base-model", "--normalize", "--no-normalize"), _RECIPE),
    Flag("mergekit-legacy", ("--bf16", "--no-bf16"), "`dtype: bfloat16` in the recipe"),
    Flag("mergekit-legacy", ("--int8-mask", "--no-int8-mask"), f"{_NOT_NEEDED}it changes no number"),
    Flag("mergekit-legacy", ("--naive-count", "--no-naive-count"), "`elect: count` under `parameters:`; mergekit ignores it"),
    Flag("mergekit-evolve", ("--max-fevals", "--strategy", "-s", "--vllm", "--no-vllm", "--in-memory", "--no-in-memory", "--storage-path", "--num-gpus", "--merge-cuda", "--no-merge-cuda", "--batch-size", "--sigma0", "--wandb", "--no-wandb", "--wandb-project", "--wandb-entity", "--task-search-path", "--i-understand-the-depths-of-the-evils-i-am-unleashing", "--save-final-model", "--no-save-final-model", "--reshard", "--no-reshard", "--timeout", "--load-in-8bit", "--load-in-4bit", "--force-population-size"), _SEARCH),
)  # fmt: skip


def answer(command: str, wrong: str, arguments: Sequence[str]) -> UsageError | None:
    """What to say of an option that a command has not, if it is one of mergekit's (E726).

    `wrong` is the first such option, or the first letter of one; others of mergekit's among the arguments are
    answered with it.
    """
    given = [wrong, *(word.partition("=")[0] for word in arguments if word.startswith("-"))]
    told = {name: _told(command, flag) for name in dict.fromkeys(given) if (flag := _find(command, name))}
    told = {name: text for name, text in told.items() if text}
    if not any(name.startswith(wrong) for name in told):
        return None
    what = f"{_and(list(told))} of mergekit, not of mergec {command}"
    texts = [text if len(told) == 1 else f"{name}: {text}" for name, text in told.items()]
    return UsageError("E726", what, "; ".join([*texts, _PAGE]))


def answer_to_tool(name: str) -> UsageError | None:
    """What to say where a command of mergekit's is given as one of mergec's (E726)."""
    for tool in TOOLS:
        if tool.name == name:
            return UsageError("E726", f"{name} is a command of mergekit", f"{_plain(tool.here)}; {_PAGE}")
    return None


def _and(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"{names[0]} is an option"
    return f"{', '.join(names[:-1])} and {names[-1]} are options"


def _find(command: str, name: str) -> Flag | None:
    """The option of that name: of the tool that the command stands for, of most tools, or of any."""
    found = [flag for flag in FLAGS if name in flag.names]
    return min(found, key=lambda flag: (command not in _commands(flag.tool), flag.tool != ""), default=None)


def _told(command: str, flag: Flag) -> str:
    """What an option is here, "" where it has its name here too; with the command where it is that of another."""
    commands = _commands(flag.tool)
    if commands and command not in commands and not flag.here.startswith((NOT_HERE, _NOT_NEEDED)):
        return f"in mergec {commands[0]}: {_plain(flag.here)}"
    return "" if flag.is_same else _plain(flag.here)


def _commands(tool: str) -> tuple[str, ...]:
    return next((one.commands for one in TOOLS if one.name == tool), ())


def _plain(text: str) -> str:
    return _LINK.sub("", text.replace("`", ""))


def tables() -> str:
    """The commands and the options as tables in Markdown."""
    lines = ["| mergekit | here |", "|---|---|"]
    lines += [f"| `{tool.name}` | {tool.here} |" for tool in TOOLS]
    for tool in ("", *(tool.name for tool in TOOLS)):
        flags = [flag for flag in FLAGS if flag.tool == tool]
        if flags:
            title = f"Options of `{tool}`" if tool else "Options of most commands"
            lines += ["", f"### {title}", "", "| mergekit | here |", "|---|---|", *_rows(flags)]
    return "\n".join(lines) + "\n"


def _rows(flags: Sequence[Flag]) -> Iterator[str]:
    for flag in flags:
        yield f"| {', '.join(f'`{name}`' for name in flag.names)} | {flag.here} |"
