"""Files of the hub in the cache that huggingface_hub keeps: a fetch that was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import os
import re
from importlib.util import find_spec
from pathlib import Path

from mergec.errors import InputError

_IS_SHA256 = re.compile(r"[0-9a-f]{64}").fullmatch
_BLOCK = 1 << 20


def cache_folder() -> Path:
    """Where files of the hub are kept."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def is_cached(repo: str, name: str, commit: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repo, name, revision=commit), str)


def fetched_bytes(repo: str, sha256: str | None) -> int:
    """How many bytes of a file that is not in the cache yet an interrupted fetch has left."""
    try:
        return _part(_blob(repo, sha256)).stat().st_size if sha256 else 0
    except OSError:
        return 0


def download(repo: str, name: str, commit: str) -> str:
    """The local path of a file, fetched unless it is there.

    Weights that the hub knows by their SHA-256 are fetched into a file that the next run finds, and have to have it
    when they are whole. Files in xet storage are left to hf_xet, which keeps the chunks that it has.
    """
    from huggingface_hub import hf_hub_download

    if name.endswith(".safetensors") and not is_cached(repo, name, commit):
        _complete(repo, name, commit)
    return hf_hub_download(repo, name, revision=commit)


def _complete(repo: str, name: str, commit: str) -> None:
    """Put a weight file where the cache looks for its content, if the hub says what that is."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo, name, revision=commit)
    found = get_hf_file_metadata(url)
    if not found.etag or not _IS_SHA256(found.etag) or not found.size or (found.xet_file_data and _has_xet()):
        return
    blob = _blob(repo, found.etag)
    part = _part(blob)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(part.with_suffix(".lock")):
        if blob.exists():
            return
        part.touch()
        with part.open("r+b") as file:
            have = file.seek(0, os.SEEK_END)
            if have > found.size:
                have = file.seek(0)
                file.truncate()
            if have < found.size:
                http_get(url, file, resume_size=have, headers=build_hf_headers(), expected_size=found.size)
            file.flush()
            os.fsync(file.fileno())
        if _sha256(part) != found.etag:
            part.unlink()
            what = f"what the hub gave for {name} of {repo}@{commit[:12]} has another SHA-256 than it says"
            raise InputError("E301", what, "run it again: it is fetched from the start")
        os.replace(part, blob)


def _has_xet() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_DISABLE_XET and find_spec("hf_xet") is not None


def _blob(repo: str, sha256: str) -> Path:
    from huggingface_hub.file_download import repo_folder_name

    return cache_folder() / repo_folder_name(repo_id=repo, repo_type="model") / "blobs" / sha256


def _part(blob: Path) -> Path:
    return blob.with_name(f"{blob.name}.mergec-part")


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()
