"""What is put on trial: bundles, and a run that was interrupted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from seqlab import train
from tiny_bundles import save
from typing_words import tiny


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bundles") / "classifier", "classification")


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("bundles") / "writer", "language_modeling")


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, interrupted behind its last checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    words = [word for word in tiny("tokenizer=bytes", "output_dir=run") if not word.startswith("tokenizer.")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SEQLAB_CACHE", str(folder / "cache"))
        patch.setattr(sys, "argv", ["seqlab.train", *words])
        train.main()
    facts = json.loads((folder / "run/run.json").read_text())
    (folder / "run/run.json").write_text(json.dumps({**facts, "status": "interrupted"}))
    return folder / "run"
