"""What a lock says of a plan: the names and digests of what it reads, and of every tensor it makes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from mergec.errors import InputError, RunError, UsageError
from mergec.io.digests import Report, file_digest
from mergec.io.layouts import layout_name, layouts_of
from mergec.io.lockfile import (
    LOCK_NAME,
    LockedFile,
    LockedModel,
    LockedRecipe,
    LockedStatistic,
    LockedTensor,
    LockFile,
    MadeFile,
    lock_text,
    read_lock,
    weights_digest,
)
from mergec.io.replace import replace
from mergec.keys import Identify, graph_text, plan_hash, plan_keys
from mergec.plan import ModelUse, Plan


def numerics(plan: Plan, device_class: str) -> dict[str, str]:
    """What the last bits of a result may depend on beside plan and inputs: versions, the device's class.

    Tensors are taken over from an earlier run only where all of it is equal. Not-a-number values that one run was
    told to write are none that another was told to write.
    """
    facts = {"mergec": _version("mergec"), "torch": _version("torch"), "device": device_class}
    if any(kind.kind_class == "states" for kind in plan.kinds):
        facts["transformers"] = _version("transformers")
    return facts | ({"nonfinite": "written"} if plan.allow_nonfinite else {})


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def by_content(content: Mapping[str, str]) -> Identify:
    """What stands for an input in an action key: the digest of its file, as `content` has it by path, and its span."""
    return lambda slot, ref: f"{content[ref.file]} {ref.begin} {ref.end}"


def input_digests(plan: Plan, report: Report | None = None, verify: bool = False) -> dict[str, str]:
    """The SHA-256 of every file the plan reads, hashed unless the hub gives it or it is remembered."""
    return {
        source.path: source.sha256 if source.sha256 and not verify else file_digest(source.path, report, verify)
        for source in plan.files
    }


def locked_recipe(plan: Plan, digests: Mapping[str, str]) -> LockedRecipe:
    """What the lock beside a recipe says: names, digests and keys; the same on every machine."""
    keys, actions = plan_keys(plan), plan_keys(plan, by_content(digests))
    graphs = [graph_text(plan, kind) for kind in plan.kinds]
    names = [hashlib.sha256("\n".join(graph).encode()).hexdigest()[:12] for graph in graphs]
    layouts = {path: lines for one in plan.checkpoints.values() for path, lines in layouts_of(one).items()}
    return LockedRecipe(
        plan=plan_hash(plan),
        method=plan.method,
        text=_without_overrides(plan),
        layouts={layout_name(lines): lines for lines in layouts.values()},
        overrides=plan.overrides,
        graphs=dict(zip(names, graphs, strict=True)),
        models={model.reference: _locked_model(plan, model, digests, layouts) for model in plan.models},
        tensors={
            output.name: LockedTensor(
                dtype=output.dtype,
                shape=output.shape,
                plan=keys[output.name],
                action=actions[output.name],
                graph=names[output.kind],
            )
            for output in plan.outputs
        },
    )


def _without_overrides(plan: Plan) -> tuple[str, ...]:
    """The recipe's lines as they are in its file; overrides are written down by themselves."""
    lines = plan.recipe_text.splitlines()
    added = sum(len(f"# {value}".splitlines()) for _, value in plan.overrides)
    return tuple(lines[: len(lines) - added])


def _locked_model(
    plan: Plan, model: ModelUse, digests: Mapping[str, str], layouts: Mapping[str, Sequence[str]]
) -> LockedModel:
    checkpoint = plan.checkpoints.get(model.reference)
    files = {file.path: file for file in (checkpoint.files if checkpoint else plan.files)}
    copied = {one.source: one.digest for one in plan.side_files if one.source}
    beside = checkpoint.side_files if checkpoint else {}
    return LockedModel(
        role=model.role,
        commit=model.origin.rpartition("@")[2] if model.origin.startswith("hf://") else None,
        files={
            name: LockedFile(
                bytes=file.file_bytes,
                header=file.header_sha256,
                sha256=digests.get(path),
                data=file.header_bytes if path in layouts else None,
                layout=layout_name(layouts[path]) if path in layouts else None,
            )
            for path, file in files.items()
            if (name := _name_in(path, model.origin))
        },
        config=checkpoint.config if checkpoint else None,
        beside={name: copied.get(path, "") for name, path in beside.items()} if checkpoint else None,
    )


def _name_in(path: str, origin: str) -> str:
    """What a file is called in a model; "" if it is not of that model."""
    if path == origin:
        return os.path.basename(path)
    return path.removeprefix(f"{origin}/") if path.startswith(f"{origin}/") else ""


def build_hash(recipe: LockedRecipe, domain: Mapping[str, str]) -> str:
    """A digest of what determines every bit: the plan, the inputs' content, the numerics."""
    inputs = sorted(set(_contents(recipe).values()))
    return hashlib.sha256(json.dumps([recipe.plan, inputs, dict(domain)], sort_keys=True).encode()).hexdigest()


def made_lock(
    plan: Plan,
    recipe: LockedRecipe,
    domain: Mapping[str, str],
    digests: Mapping[str, str],
    side_files: Mapping[str, MadeFile],
    statistics: Mapping[str, tuple[float, ...]],
    out: Path,
) -> str:
    """The text of an output's lock. `digests` are the SHA-256 of its tensors by name, `statistics` are by key."""
    tensors = {
        output.name: recipe.tensors[output.name].model_copy(
            update={
                "sha256": digests[output.name],
                "file": plan.shards[output.shard].file,
                "range": (output.begin, output.end),
            }
        )
        for output in plan.outputs
    }
    found = {key: _locked_statistic(key, values) for key, values in statistics.items()}
    facts = {"numerics": dict(domain), "build": build_hash(recipe, domain), "statistics": found or None}
    made = recipe.model_copy(update={"tensors": tensors, **facts})
    path = os.path.relpath(plan.recipe_path, out) if plan.recipe_path else plan.name
    files = {**side_files, **_shards(plan, digests)}
    return lock_text(LockFile(recipes={Path(path).as_posix(): made}, files=files))


def locked_statistics(recipe: LockedRecipe) -> dict[str, tuple[float, ...]]:
    """The statistics that a lock holds, by key; those that somebody changed are passed over."""
    found = {}
    for key, one in (recipe.statistics or {}).items():
        values = tuple(map(float.fromhex, one.values))
        if _locked_statistic(key, values) == one:
            found[key] = values
    return found


def _locked_statistic(key: str, values: tuple[float, ...]) -> LockedStatistic:
    written = tuple(value.hex() for value in values)
    return LockedStatistic(values=written, sha256=hashlib.sha256("\n".join((key, *written)).encode()).hexdigest())


def _shards(plan: Plan, digests: Mapping[str, str]) -> dict[str, MadeFile]:
    inside: list[list[str]] = [[] for _ in plan.shards]
    for output in sorted(plan.outputs, key=lambda output: (output.begin, output.end)):
        inside[output.shard].append(digests[output.name])
    return {
        shard.file: MadeFile(
            bytes=shard.file_bytes, sha256=weights_digest(shard.header, tensors), header=len(shard.header)
        )
        for shard, tensors in zip(plan.shards, inside, strict=True)
    }


@dataclass(frozen=True)
class Difference:
    """Why a lock is not what it was: its cause, what that is, and the tensors it concerns."""

    cause: Literal["recipe", "input"]
    what: str
    tensors: tuple[str, ...] = ()


def differences(old: LockedRecipe, new: LockedRecipe) -> list[Difference]:
    """What has changed from one lock of a recipe to the next; empty if and only if they are equal."""
    gone = tuple(name for name in old.tensors if name not in new.tensors)
    result = [Difference("recipe", "no longer in the result", gone)] if gone else []
    for cause, state in (("recipe", False), ("input", True)):
        names = [name for name in new.tensors if _is_changed(name, old, new) and _is_same_plan(name, old, new) == state]
        result += [Difference(cause, why, some) for why, some in reasons(names, old, new).items()]  # type: ignore[arg-type]
    if not any(one.cause == "input" for one in result):
        result += [Difference("input", f"{file} has other content") for file in changed_files(old, new)]
    if not result and old.plan != new.plan:
        result.append(Difference("recipe", "a file beside the weights changed"))
    if not result and _plain(old) != _plain(new):
        result.append(Difference("recipe", "models are named, found or used otherwise"))
    if not result and _beside(old) != _beside(new):
        result.append(Difference("input", "a model has another config, or other files beside its weights"))
    return result


def _plain(recipe: LockedRecipe) -> object:
    """What is locked before anything is made."""
    roles = {reference: (model.role, model.commit) for reference, model in recipe.models.items()}
    return recipe.plan, recipe.method, recipe.overrides, roles, _contents(recipe)


def _beside(recipe: LockedRecipe) -> object:
    """What a recipe of the same models may depend on beside their weights."""
    return {reference: (model.config, model.beside) for reference, model in recipe.models.items()}


def _is_changed(name: str, old: LockedRecipe, new: LockedRecipe) -> bool:
    before = old.tensors.get(name)
    return before is None or before.action != new.tensors[name].action


def _is_same_plan(name: str, old: LockedRecipe, new: LockedRecipe) -> bool:
    before = old.tensors.get(name)
    return before is not None and before.plan == new.tensors[name].plan


def reasons(names: Iterable[str], old: LockedRecipe, new: LockedRecipe) -> dict[str, tuple[str, ...]]:
    """Tensors by the reason why they are not what they were; one reason for all whose same settings changed."""
    groups: dict[str, dict[str, list[str]]] = {}
    for name in names:
        what, values = _reason(name, old, new)
        groups.setdefault(what, {}).setdefault(values, []).append(name)
    result = {}
    for what, by_values in groups.items():
        values = next(iter(by_values)) if len(by_values) == 1 else "by different amounts"
        result[f"{what} {values}".rstrip()] = tuple(name for some in by_values.values() for name in some)
    return result


def _reason(name: str, old: LockedRecipe, new: LockedRecipe) -> tuple[str, str]:
    """What changed about a tensor, and from which values to which."""
    before, now = old.tensors.get(name), new.tensors[name]
    if before is None:
        return "new in the result", ""
    if before.action == now.action:
        return "modified in the output since it was made", ""
    if before.plan == now.plan:
        return f"input changed: {', '.join(changed_files(old, new))}", ""
    if old.method != new.method:
        return "method changed:", f"{old.method} -> {new.method}"
    if (before.dtype, before.shape) != (now.dtype, now.shape):
        return "type changed:", f"{before.dtype} {list(before.shape)} -> {now.dtype} {list(now.shape)}"
    settings = _settings(old.graphs.get(before.graph, ()), new.graphs.get(now.graph, ()))
    if settings is None:
        return "recipe changed: it takes other steps", ""
    if any(one.startswith("embed ") for one in settings):
        return "recipe changed: tokens have other rows", ""
    if not settings:
        return "recipe changed: it reads other models", ""
    return f"recipe changed: {', '.join(settings)}:", ", ".join(f"{a} -> {b}" for a, b in settings.values())


_SETTING = re.compile(r" (\w+)=(\([^)]*\)|\S+)")


def _settings(old: Iterable[str], new: Iterable[str]) -> dict[str, tuple[str, str]] | None:
    """The settings, by name, that differ between two graphs of the same steps; None if their steps differ."""
    before, now = list(old), list(new)
    if [_SETTING.sub("", line) for line in before] != [_SETTING.sub("", line) for line in now]:
        return None
    changed: dict[str, tuple[str, str]] = {}
    for one, other in zip(before, now, strict=True):
        step = one.split()[2]
        for (name, was), (_, is_) in zip(_SETTING.findall(one), _SETTING.findall(other), strict=True):
            if was != is_ and not (name == "weights" and any(key.endswith(" weight") for key in changed)):
                changed.setdefault(f"{step} {name}", (was, is_))
    return changed


def other_numerics(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """The reason where the earlier output was computed elsewhere: equal plans may differ in their last bits there."""
    facts = [
        f"{fact} {old.get(fact, 'unknown')} -> {new.get(fact, 'unknown')}"
        for fact in sorted({*old, *new})
        if old.get(fact) != new.get(fact)
    ]
    return f"numerics changed: {', '.join(facts)}"


def changed_files(old: LockedRecipe, new: LockedRecipe) -> list[str]:
    """Input files that have other content now, as `model/file`."""
    before, now = _contents(old), _contents(new)
    return [f"{model}/{file}" for (model, file), sha256 in now.items() if before.get((model, file)) != sha256]


def _contents(recipe: LockedRecipe) -> dict[tuple[str, str], str]:
    return {
        (reference, name): file.sha256
        for reference, model in recipe.models.items()
        for name, file in model.files.items()
        if file.sha256
    }


def lock_of(recipe: Path) -> Path:
    """Where the lock of a recipe lies: beside it, one for all recipes of the folder."""
    return recipe.parent / LOCK_NAME


def read_locked(recipe: Path) -> LockedRecipe:
    """What the lock beside a recipe says of it; raises InputError (E620, E621) if it says nothing."""
    path = lock_of(recipe)
    found = read_lock(path).recipes.get(recipe.name)
    if found is None:
        raise InputError("E620", f"{path} has no entry for {recipe.name}", f"mergec lock {recipe}")
    return found


def write_locked(recipe: Path, locked: LockedRecipe) -> Path:
    """Put a recipe into the lock beside it; the entries of other recipes stay. Returns the lock's path."""
    path = lock_of(recipe)
    others = read_lock(path) if path.exists() else LockFile(recipes={})
    if others.files is not None:
        what = f"{recipe.parent} is the output of a merge, and its lock says how it was made"
        raise UsageError("E622", what, "copy the recipe to another folder")
    lock = LockFile(recipes={**others.recipes, recipe.name: locked})
    try:
        replace(path, lock_text(lock).encode())
    except OSError as error:
        raise RunError("E412", f"cannot write {path}: {error.strerror}", "is the folder yours?") from None
    return path
