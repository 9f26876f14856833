"""The summary of skipped tests, which tests/conftest.py prints."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from typing_words import REPOSITORY

TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_data(number):
    pytest.skip("there is no data")

@pytest.mark.skipif(True, reason="Python is too old")
def test_python():
    pass

def test_passes():
    pass
"""


@pytest.mark.parametrize("flags", [[], ["-p", "xdist", "-n", "1"]], ids=["one process", "xdist"])
def test_each_reason_to_skip_has_a_line_with_its_count(flags: list[str], tmp_path: Path) -> None:
    source = (REPOSITORY / "tests" / "conftest.py").read_text()
    function = source[source.index("def pytest_terminal_summary") :].partition("\n\n\n")[0]
    (tmp_path / "conftest.py").write_text(f"from collections import Counter\n\nimport pytest\n\n\n{function}\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_module.py").write_text("import pytest\n\npytest.importorskip('no_such_module')\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *flags, "."]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.partition("skipped tests")[2].splitlines()[1:4]
    assert lines == [
        "   3  there is no data",
        "   1  Python is too old",
        "   1  could not import 'no_such_module': No module named 'no_such_module'",
    ]
