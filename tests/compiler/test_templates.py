"""Chat templates: those with names as their publishers write them, the most common one, and where they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import write_recipe
from vocabularies import word_tokenizer, write_llama

import mergec
from mergec.compiler.templates import NAMED
from mergec.recipe.vocabulary import TEMPLATES

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "bye"},
]
ONE, OTHER = "{{ messages[0]['content'] }} one", "{{ messages[0]['content'] }} other"
RENDERED = {
    "alpaca": "Be kind.\n\n### Instruction:\nhi\n\n### Response:\nhello\n\n### Instruction:\nbye\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    "<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]hi\n"
    "[|assistant|]hello[|endofturn|]\n[|user|]bye\n[|assistant|]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nbye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s> [INST] Be kind.\n\nhi [/INST] hello</s> [INST] bye [/INST]",
}


def tokenizer_of(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def words() -> Any:
    return word_tokenizer(["<unk>", "<s>", "</s>", "a"], bos_token="<s>", eos_token="</s>")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Four models of which two have one template, one another, and one has none."""
    for number, (label, template) in enumerate({"a": None, "b": OTHER, "c": ONE, "d": ONE}.items()):
        write_llama(tmp_path / label, words(), 4, number)
        if label == "d":  # as older versions of transformers wrote it
            path = tmp_path / label / "tokenizer_config.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": f"{template}\n"}))
        elif template:
            (tmp_path / label / "chat_template.jinja").write_text(template)
    return tmp_path


def merge(folder: Path, template: str, labels: str = "abcd", **more: Any) -> tuple[Path, mergec.Plan]:
    models = [folder / label for label in labels]
    recipe = write_recipe(folder, "linear", models, parameters={"weight": 1.0}, chat_template=template, **more)
    plan = mergec.compile(recipe)
    plan.run(folder / "out")
    return folder / "out", plan


def test_every_name_has_a_template() -> None:
    assert tuple(NAMED) == TEMPLATES


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_what_their_publishers_say(name: str, models: Path) -> None:
    out, _ = merge(models, name)
    found = tokenizer_of(out).apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert found == RENDERED[name]


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_templates_are_those_of_the_peer(name: str) -> None:
    resources = pytest.importorskip("importlib.resources")
    pytest.importorskip("mergekit")
    from transformers.utils.chat_template_utils import _compile_jinja_template as compiled

    theirs = resources.files("mergekit._data.chat_templates").joinpath(f"{name}.jinja").read_text()
    for chat in (CHAT, CHAT[1:], CHAT[1:3]):
        texts = [
            compiled(text).render(messages=chat, bos_token="<s>", eos_token="</s>") for text in (NAMED[name], theirs)
        ]
        assert texts[0] == texts[1]


def test_auto_is_what_most_models_have_and_a_tie_is_the_first(models: Path) -> None:
    out, plan = merge(models, "auto")
    assert tokenizer_of(out).chat_template == ONE
    assert next(note for note in plan.notes if "chat" in note).endswith("/d, the one that most models have")
    (models / "out").rename(models / "before")
    assert tokenizer_of(merge(models, "auto", "abc")[0]).chat_template == OTHER


def test_auto_of_models_without_a_template_says_so(models: Path) -> None:
    out, plan = merge(models, "auto", "a")
    assert not tokenizer_of(out).chat_template
    assert "chat template: none, for no model has one" in plan.notes


def test_a_template_of_ones_own_is_in_both_places(models: Path) -> None:
    (models / "b/chat_template.json").write_text(json.dumps({"chat_template": OTHER}))
    template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    out, _ = merge(models, template, "bc")
    assert (out / "chat_template.jinja").read_text() == template
    assert json.loads((out / "tokenizer_config.json").read_text())["chat_template"] == template
    assert not (out / "chat_template.json").exists()
    assert tokenizer_of(out).chat_template == template


def test_a_template_beside_tokens_that_are_added(models: Path) -> None:
    word_tokenizer(["<unk>", "<s>", "</s>", "b"]).save_pretrained(models / "b")
    out, _ = merge(models, "chatml", "ab", tokenizer_source="union")
    assert tokenizer_of(out).get_vocab() == {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}
    assert tokenizer_of(out).chat_template == NAMED["chatml"]
