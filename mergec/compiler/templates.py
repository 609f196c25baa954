"""Chat templates: those that are known by name, written from the published formats, and the one most models have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from mergec.compiler.models import Model
from mergec.errors import InputError
from mergec.io.checkpoint import is_absent, parse_json
from mergec.io.hub import small_file
from mergec.io.vocabulary import CONFIG_NAME
from mergec.recipe.vocabulary import AUTO

JINJA_NAME, LEGACY_NAME = "chat_template.jinja", "chat_template.json"

NAMED: Mapping[str, str] = {
    # https://github.com/tatsu-lab/stanford_alpaca
    "alpaca": """\
{%- for message in messages %}
{%- set title = {'user': '### Instruction:\\n', 'assistant': '### Response:\\n'}[message['role']] | default('') %}
{{- title + message['content'] | trim + '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\\n' }}{%- endif %}
""",
    # https://github.com/openai/openai-python/blob/v0.28.1/chatml.md
    "chatml": """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
""",
    # EXAONE 3.0, arXiv:2408.03541, appendix; a conversation opens with a system message, if need be an empty one
    "exaone": """\
{%- if messages[0]['role'] != 'system' %}{{- '[|system|][|endofturn|]\\n' }}{%- endif %}
{%- for message in messages %}
{{- '[|' + message['role'] + '|]' + message['content'] + ('\\n' if message['role'] == 'user' else '[|endofturn|]\\n') }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '[|assistant|]' }}{%- endif %}
""",
    # https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/
    "llama3": """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""",
    # arXiv:2310.06825, section 3; the system's words stand before the user's first
    "mistral": """\
{%- set ns = namespace(system='') %}
{{- bos_token }}
{%- for message in messages %}
{%- if message['role'] == 'system' %}{%- set ns.system = message['content'] + '\\n\\n' %}
{%- elif message['role'] == 'user' %}
{{- ' [INST] ' + ns.system + message['content'] + ' [/INST]' }}
{%- set ns.system = '' %}
{%- else %}{{- ' ' + message['content'] + eos_token }}
{%- endif %}
{%- endfor %}
""",
}


def chosen_template(asked: str, models: Mapping[str, Model]) -> tuple[str | None, str]:
    """The template that a recipe asks for, and a note of whose it is; None where no model has one."""
    if asked != AUTO:
        return NAMED.get(asked, asked), f"chat template: {asked}" if asked in NAMED else "chat template: the recipe's"
    found = {reference: text for reference, model in models.items() if (text := template_of(model))}
    if not found:
        return None, "chat template: none, for no model has one"
    text = Counter(found.values()).most_common(1)[0][0]
    owners = [reference for reference, one in found.items() if one == text]
    return text, f"chat template: that of {', '.join(owners)}, the one that most models have"


def template_of(model: Model) -> str | None:
    """A model's own template: chat_template.jinja, else what tokenizer_config.json or chat_template.json says."""
    files = {name: path for name, path in model.checkpoint.side_files.items() if not is_absent(path)}
    if JINJA_NAME in files:
        return small_file(files[JINJA_NAME]).decode(errors="replace").strip() or None
    for name in (CONFIG_NAME, LEGACY_NAME):
        text = _default(json_file(files[name]).get("chat_template")) if name in files else None
        if text and text.strip():
            return text.strip()
    return None


def _default(value: Any) -> str | None:
    """A template that is written as text, or the one called `default` of several."""
    if isinstance(value, list):
        value = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}.get("default")
    return value if isinstance(value, str) else None


def with_template(text: str, files: Mapping[str, str], written: Mapping[str, Any]) -> dict[str, Any]:
    """The files that hold a chat template, of those in `files` or already `written`, saying the same.

    Both chat_template.jinja, which newer libraries read, and tokenizer_config.json, which others do.
    """
    made = {**written, JINJA_NAME: text}
    if LEGACY_NAME in files:
        made[LEGACY_NAME] = None
    if CONFIG_NAME in files and not is_absent(files[CONFIG_NAME]):
        config = written.get(CONFIG_NAME) or json_file(files[CONFIG_NAME])
        made[CONFIG_NAME] = {**config, "chat_template": text}
    return made


def json_file(path: str) -> dict[str, Any]:
    """A small file that holds a JSON object. Raises InputError (E350)."""
    try:
        found = parse_json(small_file(path))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError("E350", f"{path} is not a JSON object", "fetch or copy it again")
    return found
