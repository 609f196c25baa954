"""Models on the Hugging Face hub: headers by range request, files fetched only when a run needs them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mergec.errors import InputError
from mergec.io.checkpoint import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_NAME,
    DATA,
    INDEX_NAME,
    SINGLE_NAME,
    Checkpoint,
    is_side_file,
    join_headers,
    read_index,
    read_json,
    weight_file,
)
from mergec.io.download import download, fetched_bytes, is_cached
from mergec.io.tensors import MAX_HEADER_BYTES, Header, parse_header

_SCHEME = "hf://"
_FIRST_BYTES = 256 * 1024  # most headers fit, so one request is enough
_CONNECTIONS = 8
_WHY = {  # by the names of huggingface_hub's errors, which have moved between its modules
    "RepositoryNotFoundError": "no such repository",
    "RevisionNotFoundError": "no such revision of the repository",
    "GatedRepoError": "the repository is gated, and you have no access",
    "EntryNotFoundError": "no such file in the repository",
    "ConnectError": "it cannot be reached",
    "ConnectionError": "it cannot be reached",
}
_HINT = {
    "RepositoryNotFoundError": "is the name right, and do you have access? a local folder is named with a leading ./",
    "RevisionNotFoundError": "a revision is a branch, a tag or a commit",
    "GatedRepoError": "accept its terms on its page, and log in with `hf auth login`",
    "ConnectError": "check the network; a local folder is named with a leading ./",
    "ConnectionError": "check the network; a local folder is named with a leading ./",
}


def is_offline() -> bool:
    """Whether the hub is switched off by HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE, as in huggingface_hub."""
    said = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return said.lower() in ("1", "true", "yes", "on")


def is_hub_path(path: str) -> bool:
    return path.startswith(_SCHEME)


def open_checkpoint(reference: str, adapter: bool = False) -> Checkpoint:
    """Read the headers of `org/name` or `org/name@revision` without fetching its weights.

    The revision is resolved to a commit, which the plan then names. Raises InputError (E301) if the hub refuses.
    """
    repo, _, revision = reference.partition("@")
    with _hub_errors(reference):
        from huggingface_hub import HfApi

        info = HfApi().model_info(repo, revision=revision or None, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        origin = f"{_SCHEME}{repo}@{info.sha}"
        names, index = _weight_files(reference, origin, sizes, adapter)
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            read = pool.map(lambda name: _read_header(f"{origin}/{name}", sizes[name]), names)
            headers = dict(zip(names, read, strict=True))
        config = read_json(Path(fetch(f"{origin}/config.json"))) if "config.json" in sizes else None
        of_adapter = read_json(Path(fetch(f"{origin}/{ADAPTER_CONFIG_NAME}"))) if names == [ADAPTER_NAME] else None
    tensors = join_headers(reference, headers, index)
    digests = {file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs}
    files = tuple(weight_file(f"{origin}/{name}", header, digests.get(name)) for name, header in headers.items())
    side = {name: f"{origin}/{name}" for name, size in sizes.items() if "/" not in name and is_side_file(name, size)}
    return Checkpoint(origin, files, tensors, config, side, of_adapter)


def fetch(path: str) -> str:
    """The local path of a hub file, fetched into the hub's cache unless it is there; a local path is returned as is."""
    if not is_hub_path(path):
        return path
    repo, commit, name = _parts(path)
    try:
        return download(repo, name, commit)
    except InputError:
        raise
    except Exception as error:  # the hub client's errors share no base class across its versions
        what = f"the hub does not give {name} of {repo}@{commit[:12]}: {reason(error)[1]}"
        raise InputError("E301", what, "run it again: what was fetched is kept") from None


def missing_bytes(files: Iterable[tuple[str, int, str | None]]) -> int:
    """How many bytes of files, given as path, size and SHA-256 if known, are still to be fetched."""
    found = 0
    for path, size, sha256 in files:
        if is_hub_path(path):
            repo, commit, name = _parts(path)
            found += 0 if is_cached(repo, name, commit) else max(0, size - fetched_bytes(repo, sha256))
    return found


def small_file(path: str) -> bytes:
    """The bytes of a file beside the weights, fetched if it is on the hub; of `data:TEXT` those of the text."""
    if path.startswith(DATA):
        return path.removeprefix(DATA).encode()
    try:
        return Path(fetch(path)).read_bytes()
    except OSError as error:
        raise InputError("E311", f"cannot read {path}: {error.strerror or error}") from None


def _parts(path: str) -> tuple[str, str, str]:
    repo, _, rest = path.removeprefix(_SCHEME).partition("@")
    commit, _, name = rest.partition("/")
    return repo, commit, name


def _weight_files(
    reference: str, origin: str, sizes: dict[str, int], adapter: bool
) -> tuple[list[str], dict[str, str] | None]:
    if adapter and ADAPTER_NAME in sizes:
        return [ADAPTER_NAME], None
    if SINGLE_NAME in sizes:
        return [SINGLE_NAME], None
    if INDEX_NAME in sizes:
        index = read_index(Path(fetch(f"{origin}/{INDEX_NAME}")), sizes.keys())
        return sorted(set(index.values())), index
    if ADAPTER_NAME in sizes:
        return [ADAPTER_NAME], None
    raise InputError("E302", f"'{reference}' has no safetensors weights on the hub", "convert it to safetensors first")


def _read_header(path: str, file_bytes: int) -> Header:
    start = _range(path, 0, min(file_bytes, _FIRST_BYTES))
    needed = 8 + int.from_bytes(start[:8], "little")
    if len(start) < needed <= min(file_bytes, MAX_HEADER_BYTES):
        start += _range(path, len(start), needed)
    return parse_header(io.BytesIO(start), path, file_bytes)


def _range(path: str, begin: int, end: int) -> bytes:
    """Bytes [begin, end) of a file on the hub."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined]

    repo, commit, name = _parts(path)
    headers = {**build_hf_headers(), "Range": f"bytes={begin}-{end - 1}"}
    response: Any = get_session().get(hf_hub_url(repo, name, revision=commit), headers=headers, timeout=30)
    hf_raise_for_status(response)
    content: bytes = response.content
    return content if response.status_code == 206 else content[begin:end]


def reason(error: Exception) -> tuple[str, str]:
    """The kind of an error of the hub's client, and what it says in one line."""
    kind = type(error).__name__
    return kind, _WHY.get(kind) or next((line.strip() for line in str(error).splitlines() if line.strip()), kind)


@contextmanager
def _hub_errors(reference: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        what = f"'{reference}' is on the hub, and huggingface_hub cannot be imported: {error}"
        raise InputError("E301", what, "pip install huggingface_hub") from None
    except Exception as error:  # the hub client's errors share no base class across its versions
        kind, why = reason(error)
        raise InputError("E301", f"no local folder '{reference}', and the hub: {why}", _HINT.get(kind, "")) from None
