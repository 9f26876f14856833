"""python -m seqlab.serve run=PATH [port=8000] [host=127.0.0.1]: the model behind HTTP; see seqlab/server/app.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seqlab.cli.command import Command, run_verb


@dataclass(frozen=True)
class Options:
    """The options of this verb."""

    run: str
    host: str = "127.0.0.1"
    port: int = 8000
    name: str | None = None
    trust: str | list[str] | None = None
    device: str = "auto"
    threads: int | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    batching: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)


def job(command: Command) -> None:
    """Listens when it can answer, and not before."""
    import torch

    from seqlab import bundle
    from seqlab.cli.runs import name_of
    from seqlab.config.instantiate import instantiate, read_settings
    from seqlab.errors import InputError
    from seqlab.experiment import choose_decoding
    from seqlab.inference.predictor import Predictor
    from seqlab.layers.device import choose_device

    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}, which is not installed: pip install 'seqlab[serve]'") from error
    from seqlab.server.listen import listen, serve
    from seqlab.server.service import ServerBatching, ServerLimits, Service

    options = read_settings(Options, command.config)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    batching = instantiate(options.batching, "batching", target=ServerBatching)
    limits = instantiate(options.limits, "limits", target=ServerLimits)
    loaded = bundle.load(options.run, command.trust)
    choose_decoding(loaded.task, options.decoding)
    loaded.task.model.to(choose_device(options.device))
    service = Service(Predictor(loaded), batching, limits, options.name or name_of(options.run))
    service.warm_up()
    serve(service, listen(options.host, options.port))


def main() -> None:
    """The verb, as `python -m seqlab.serve` runs it."""
    run_verb(job, "serve")


if __name__ == "__main__":
    main()
