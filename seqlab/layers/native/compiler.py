"""Machine code for what has to be fast on the CPU: native/*.cpp, each compiled when first needed and kept.

Nothing has to be installed for it, and nothing depends on it: where there is no C++ compiler, or what it makes cannot
be loaded, torch's operators compute the same. A library is kept in the user's cache folder, under a name that tells
sources, compiler and processor apart. It takes the threads of the OpenMP runtime that torch has loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp", "-fno-exceptions")
SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}

logger = logging.getLogger(__name__)


def can_run(name: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether native/<name>.cpp can be had for such tensors."""
    return device.type == "cpu" and dtype in SUFFIXES and library(name) is not None


def call(name: str, function: str, dtype: torch.dtype, batch: ctypes.Structure, *arguments: Tensor | int) -> Any:
    """Calls a function of that library on torch's number of threads: tensors go by their address."""
    values = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else ctypes.c_long(a) for a in arguments]
    return getattr(library(name), f"{function}_{SUFFIXES[dtype]}")(
        ctypes.byref(batch), torch.get_num_threads(), *values
    )


@cache
def library(name: str) -> ctypes.CDLL | None:
    """The loaded library, compiled first if need be; None where that is not possible, which is logged once.

    The compiler is $CXX, or g++. `SEQLAB_COMPILED=0` in the environment does without.
    """
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++"))), None)
    if os.environ.get("SEQLAB_COMPILED") == "0" or compiler is None or platform.system() != "Linux":
        return None
    try:
        path = built(name, compiler, private_folder())
        try:
            return ctypes.CDLL(str(path))
        except OSError:  # damaged, perhaps: once more
            path.unlink()
            return ctypes.CDLL(str(built(name, compiler, path.parent)))
    except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
        told = error.stderr.strip() if isinstance(error, subprocess.CalledProcessError) else error
        logger.warning(
            "%s runs on torch's operators: %s could not compile its own code (SEQLAB_COMPILED=0 does not try): %s",
            name,
            compiler,
            told,
        )
        return None


def private_folder() -> Path:
    """Where libraries are kept: of this user's own, for whoever may write there runs code as us.

    Raises:
        RuntimeError: there is no home, or others may write to the folder.
    """
    folder = Path.home() / ".cache" / "seqlab" / "compiled"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.stat()
    if about.st_uid != os.getuid() or about.st_mode & 0o022:
        raise RuntimeError(f"{folder} is not this user's alone: chmod go-w, or remove it")
    return folder


def built(name: str, compiler: str, folder: Path) -> Path:
    """The library's file, made if it is not there; whoever makes it at the same time makes the same."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    told = ("flags", "model", "Features", "CPU")  # of the processor, on x86 and on ARM
    processor = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(told)]
    source, header = FOLDER / f"{name}.cpp", FOLDER / "vector.h"
    about = [source.read_text(), header.read_text(), *FLAGS, version, platform.machine(), *sorted(set(processor))]
    path = folder / f"{name}-{hashlib.sha256(chr(10).join(about).encode()).hexdigest()[:16]}.so"
    if not path.exists():
        with tempfile.TemporaryDirectory(dir=folder) as beside:
            code, made = f"{beside}/code.o", f"{beside}/code.so"
            for command in ([compiler, *FLAGS, "-c", str(source), "-o", code], [compiler, "-shared", code, "-o", made]):
                # The second without -fopenmp: the runtime is torch's.
                subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
            os.replace(made, path)
    return path
