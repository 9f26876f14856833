"""The windows of a stream: lane by lane they are the stream, every token of it once."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seqlab.data.examples import Examples
from seqlab.data.loader import PlannedLoader
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.preprocessing.stream_language_modeling import StreamLanguageModelingPreprocessor
from seqlab.data.rejects import Rejects
from seqlab.data.windows import Windows
from seqlab.errors import InputError
from seqlab.text.tokenizer_training import Bytes

MakeTable = Callable[..., datasets.Dataset]
some = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@some
@given(
    lengths=st.lists(st.integers(0, 12), max_size=8),
    lanes=st.integers(1, 6),
    window=st.integers(1, 9),
    data=st.data(),
)
@example(lengths=[3], lanes=5, window=2, data=None)  # more lanes than tokens
@example(lengths=[1, 60, 0, 1], lanes=2, window=7, data=None)
def test_lane_by_lane_they_are_the_stream(
    lengths: list[int], lanes: int, window: int, data: st.DataObject | None, make_table: MakeTable
) -> None:
    sizes = [length and (data.draw(st.integers(1, 99)) if data else 3 * length) for length in lengths]
    table = make_table(lengths, sizes)
    windows = Windows(table, lanes, window)
    rows = table["tokens"][:] if lengths else []
    read = [token for row in rows for token in row[:-1]]
    predicted = [token for row in rows for token in row[1:]]
    # The stream cut into lanes, and each lane into windows, by hand.
    total, seen = len(read), []
    for lane in range(lanes):
        begin, end = lane * total // lanes, (lane + 1) * total // lanes
        tokens, targets, number = [], [], lane
        while number < len(windows):
            batch = windows.batch([number])
            assert batch.ids.tolist() == [number]
            assert len(batch.tokens.values) == min(window, end - begin - len(tokens))
            tokens += batch.tokens.values.tolist()
            targets += batch.targets.values.tolist()
            number += lanes
        assert (tokens, targets) == (read[begin:end], predicted[begin:end])
        seen.append(end - begin)
    assert max(seen) - min(seen) <= 1
    plan = windows.plan(1, 1, 7, 3)
    assert [plan[i].tolist() for i in range(len(plan))] == np.arange(len(windows)).reshape(-1, lanes).tolist()
    assert len(plan) == -(-max(seen) // window)
    batches = [windows.batch(plan[i]) for i in range(len(plan))]
    assert sum(int(batch.num_bytes.sum()) for batch in batches) == sum(sizes)
    assert sum(batch.tokens.layout.total for batch in batches) == total == windows.report["tokens"]
    for batch in batches:  # in company as alone, longest first
        assert batch.tokens.lengths.tolist() == sorted(batch.tokens.lengths.tolist(), reverse=True)
        alone = [windows.batch([i]) for i in batch.ids.tolist()]
        assert [part.tolist() for part in batch.tokens.to_list()] == [one.tokens.values.tolist() for one in alone]
        assert [part.tolist() for part in batch.targets.to_list()] == [one.targets.values.tolist() for one in alone]
        assert batch.num_bytes.tolist() == [int(one.num_bytes) for one in alone]


def test_a_window_has_its_share_of_the_bytes_of_each_text(make_table: MakeTable) -> None:
    windows = Windows(make_table([4, 2], [40, 2]), 1, 3)
    assert [windows.batch([i]).num_bytes.tolist() for i in range(2)] == [[30], [12]]


def test_chunks_slices_and_workers(make_table: MakeTable) -> None:
    table = make_table([7, 1, 30, 4, 9], on_disk=True)
    whole = table.data.table.combine_chunks()
    parts = datasets.Dataset(
        datasets.table.InMemoryTable(pa.concat_tables([whole.slice(0, 2), whole.slice(2, 3)])), fingerprint="chunked"
    )
    windows, chunked = Windows(table, 3, 4), Windows(parts, 3, 4)
    ahead = PlannedLoader(windows, tokens=1, seed=1, workers=2)
    assert len(pickle.dumps(windows)) < 3000
    for epoch in (0, 1):
        for i, batch in enumerate(ahead.batches(epoch, 2), start=2):
            other = chunked.batch(range(3 * i, 3 * i + 3))
            assert batch.ids.tolist() == other.ids.tolist()
            assert batch.tokens.values.tolist() == other.tokens.values.tolist()
            assert batch.targets.values.tolist() == other.targets.values.tolist()


def test_a_stream_reads_the_rows_of_text_and_an_end_mark_between_texts() -> None:
    preprocessor = StreamLanguageModelingPreprocessor(lanes=1, window=100)
    assert preprocessor.fingerprint() == LanguageModelingPreprocessor().fingerprint()  # one prepared corpus serves both
    records = pa.table({"text": ["ab", "", "c"]})
    vocabularies = preprocessor.learn(records, Bytes())
    rows = datasets.Dataset(datasets.table.InMemoryTable(preprocessor.tokenize(records, vocabularies, Rejects())))
    batch = Windows(rows, preprocessor.lanes, preprocessor.window).batch([0])
    end, (a, b, c) = vocabularies.tokenizer.end, vocabularies.tokenizer.encode(["abc"])[0]
    assert batch.tokens.values.tolist() == [end, a, b, end, end, c]
    assert batch.targets.values.tolist() == [a, b, end, end, c, end]
    assert sorted(Examples(rows).batch(range(3)).targets.values.tolist()) == sorted(batch.targets.values.tolist())
    with pytest.raises(InputError, match=r"form\.lanes=0, form\.window=35"):
        StreamLanguageModelingPreprocessor(lanes=0)
