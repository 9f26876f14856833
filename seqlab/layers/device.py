"""Which device computes."""

from __future__ import annotations

import torch

from seqlab.errors import InputError


def choose_device(name: str) -> torch.device:
    """ "auto" is an accelerator where there is one.

    Raises:
        InputError: torch knows no such device, or has none here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device={name} cannot be used: {reason}; choose device=cpu or device=auto") from error
    return device
