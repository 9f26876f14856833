"""TensorBoard's view of a run: event files directly in the run folder, and nothing in folders below it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqlab.training.logging.json_lines import read_points
from seqlab.training.state import State

PREFIXES = {"train": "train", "validation": "val", "test": "test"}
PERFORMANCE = {
    "tokens_per_s", "padding_fraction", "step_ms", "data_wait_fraction", "useful_gflops", "useful_flops_utilization",
    "mem_gb",
}  # fmt: skip
DATA = {"batch_tokens", "batch_seqs"}
NOT_PLOTTED = {"step", "split", "epoch", "tokens", "sequences", "seconds", "seconds_left", "best_step"}


def tags(point: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a logged point by TensorBoard tag: {"split": "train", "loss": 2.5} gives {"train/loss": 2.5}.

    None, which metrics.jsonl has in place of what is no finite number, is no scalar.
    """
    prefix = PREFIXES[point["split"]]
    scalars: dict[str, float] = {}
    for name, value in point.items():
        if name == "by_length":
            parts = {f"{part}/{tag}": x for part, found in value.items() for tag, x in found.items()}
            scalars |= {f"{prefix}_by_len/{name}": x for name, x in parts.items() if x is not None}
        elif name not in NOT_PLOTTED and value is not None:
            folder = "perf" if name in PERFORMANCE else "data" if name in DATA else prefix
            scalars[f"{folder}/{name}"] = value
    return scalars


def flatten(configuration: Mapping[str, Any], prefix: str = "") -> dict[str, bool | float | str]:
    """{"model": {"dim": 256}} gives {"model.dim": 256}; what is neither number nor text becomes text."""
    flat: dict[str, bool | float | str] = {}
    for name, value in configuration.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


class TensorBoardLog:
    """Writes scalars, the configuration, lengths, and what the HParams table needs.

    HParams get a session start and a session end in this run's own events, and no experiment summary, so that the table
    of many runs shows the union of their keys (`SummaryWriter.add_hparams` would add a run and false points). The
    session end lies in an event file of its own: TensorBoard believes the first it reads, so a run that failed and
    goes on must be able to take it back.
    """

    def __init__(self, folder: Path, configuration: Mapping[str, Any], text: str, lengths: Sequence[int]) -> None:
        self.folder = folder
        self.configuration = configuration
        self.configuration_text = text
        self.lengths = lengths

    def start(self, state: State) -> None:
        """Opens an event file in which TensorBoard drops what earlier ones hold from this step on."""
        from torch.utils.tensorboard import SummaryWriter  # late: takes a second

        for path in self.folder.glob("events.out.tfevents.*.end"):
            path.unlink()
        # TensorBoard reads files in the order of their names, which begin with the second: no two starts may share it.
        while any(
            int(path.name.split(".")[3]) >= int(time.time()) for path in self.folder.glob("events.out.tfevents.*")
        ):
            time.sleep(0.05)
        # A purge takes effect only if the first file began with one too; hence also at step 0.
        self._writer = SummaryWriter(str(self.folder), purge_step=state.step)
        if state.step == 0:
            self._describe()
        for point in read_points(self.folder / "metrics.jsonl"):
            if point["step"] == state.step:  # purged a moment ago, and not logged again
                self.point(point)

    def _describe(self) -> None:
        import numpy as np
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2  # type: ignore[import-untyped]

        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for name, value in flatten(self.configuration).items():
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(start.hparams[name], kind, value)
        _add_hparams(self._writer, metadata.SESSION_START_INFO_TAG, session_start_info=start)
        self.text("configuration", self.configuration_text, 0)
        if len(self.lengths):
            self._writer.add_histogram("data/lengths", np.asarray(self.lengths), 0)
        loss = {"train and validation": ["Multiline", ["train/loss", "val/loss"]]}
        self._writer.add_custom_scalars({"loss": loss})

    def point(self, point: Mapping[str, Any]) -> None:
        for tag, value in tags(point).items():
            self._writer.add_scalar(tag, value, point["step"])

    def text(self, tag: str, text: str, step: int) -> None:
        """Shown as it is, line by line."""
        indented = "\n".join("    " + line for line in text.splitlines())  # Markdown for preformatted
        self._writer.add_text(tag, indented, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()
        if status in ("success", "failed"):
            self._end_session(status)

    def _end_session(self, status: str) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
        from torch.utils.tensorboard import SummaryWriter

        code = api_pb2.STATUS_SUCCESS if status == "success" else api_pb2.STATUS_FAILURE
        end = plugin_data_pb2.SessionEndInfo(status=code, end_time_secs=time.time())
        with SummaryWriter(str(self.folder), filename_suffix=".end") as writer:
            _add_hparams(writer, metadata.SESSION_END_INFO_TAG, session_end_info=end)


def _add_hparams(writer: Any, tag: str, **info: Any) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**info))
    value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
    writer.file_writer.add_summary(Summary(value=[value]), 0)
