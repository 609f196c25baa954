"""mergekit's own tests with mergec in place of its `run_merge`.

They are no part of this repository: a fixture downloads mergekit's source distribution and runs the tests that merge,
with `upstream.py` as the plugin that puts mergec in. Every one passes, or stands in a table here with the reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("mergekit")

VERSION = "0.1.5"
SHA256 = "caa51dbbfa493bcd62218d17f2bc7bb1c7a2a2e4baf4e2f34a29d73c66c594aa"
FILES = ("basic_merges", "chat_template", "embedding_truncation", "merge_dtypes", "tokenizer", "vocabulary_axis")
THAT_MERGE = 66  # tests of these files that go through run_merge; the others call functions of mergekit's own


class Difference(NamedTuple):
    """What mergec says in a test that it fails, and why it is right to."""

    said: str
    reason: str


_WORDS = "refused as well: before weights are read, with the place in the recipe, in other words"
_FOLLOWS = "rows are cut off and vocab_size says so; mergekit keeps the donor's, so that config and weights disagree"
_ONE = "embedding and head keep one number of rows, that of the shortest; vocab_size is one number"
DIFFERENT: dict[str, Difference] = {
    "test_embedding_truncation.py::test_truncation_*": Difference("8 == 10", _FOLLOWS),
    "test_embedding_truncation.py::test_embedding_and_head_are_truncated_independently": Difference("(8, 32)", _ONE),
    "test_embedding_truncation.py::test_default_and_allow_crimes_do_not_truncate[[]*]": Difference("E321", _WORDS),
}


class Outcome(NamedTuple):
    merged: bool
    outcome: str
    message: str


@pytest.fixture(scope="session")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mergekit's source distribution, unpacked; skips where no index offers it."""
    folder = tmp_path_factory.mktemp("mergekit")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-build-isolation"]
    command += ["--retries", "1", "--timeout", "20"]
    command += ["--no-binary", ":all:", "--dest", str(folder), f"mergekit=={VERSION}"]
    tried = subprocess.run(command, capture_output=True, text=True)
    archive = folder / f"mergekit-{VERSION}.tar.gz"
    if tried.returncode or not archive.exists():
        pytest.skip(f"no source distribution of mergekit {VERSION}: {tried.stderr.strip().splitlines()[-1:]}")
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256
    with tarfile.open(archive) as packed:
        packed.extractall(folder)  # its digest is known, so its members are
    return folder / f"mergekit-{VERSION}"


@pytest.fixture(scope="session")
def outcomes(sources: Path) -> dict[str, Outcome]:
    """What became of every test of theirs that merges, by its name."""
    here = Path(__file__).parent
    report = sources / "report.json"
    paths = os.pathsep.join([str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "upstream", *(f"tests/test_{name}.py" for name in FILES)],
        cwd=sources,
        env={**os.environ, "PYTHONPATH": paths, "MERGEC_UPSTREAM_REPORT": str(report)},
        capture_output=True,
        text=True,
    )
    assert report.exists(), ended.stdout[-2000:] + ended.stderr[-2000:]
    found = {name: Outcome(*one) for name, one in json.loads(report.read_text()).items()}
    return {name: one for name, one in found.items() if one.merged}


def difference(name: str) -> Difference | None:
    return next((one for pattern, one in DIFFERENT.items() if fnmatchcase(name, pattern)), None)


def test_all_that_merge_are_run(outcomes: dict[str, Outcome]) -> None:
    assert len(outcomes) == THAT_MERGE


def test_each_passes_or_stands_in_the_table(outcomes: dict[str, Outcome]) -> None:
    failed = {name: one.message for name, one in outcomes.items() if one.outcome != "passed"}
    assert {name: text for name, text in failed.items() if not difference(name)} == {}


def test_what_stands_in_the_table_fails_for_the_reason_given(outcomes: dict[str, Outcome]) -> None:
    listed = {name: (one, stated) for name, one in outcomes.items() if (stated := difference(name))}
    assert {name: one.message for name, (one, stated) in listed.items() if stated.said not in one.message} == {}


def test_the_table_has_no_stale_entry(outcomes: dict[str, Outcome]) -> None:
    failed = [name for name, one in outcomes.items() if one.outcome != "passed"]
    assert [pattern for pattern in DIFFERENT if not any(fnmatchcase(name, pattern) for name in failed)] == []
