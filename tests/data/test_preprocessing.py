"""Records become rows, and rows batches, in which everything is where the task expects it."""

from __future__ import annotations

import json
from typing import Any

import datasets
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqlab.bundle import build_context
from seqlab.data.batch import Batch
from seqlab.data.examples import Examples
from seqlab.data.preprocessing.classification import ClassificationPreprocessor
from seqlab.data.preprocessing.language_modeling import LanguageModelingPreprocessor
from seqlab.data.preprocessing.preprocessor import Preprocessor, require_fields
from seqlab.data.preprocessing.sequence_to_sequence import SequenceToSequencePreprocessor
from seqlab.data.preprocessing.tagging import TaggingPreprocessor
from seqlab.data.rejects import Rejects
from seqlab.errors import InputError
from seqlab.text.tokenizer_training import Bytes, Words
from seqlab.text.vocabularies import Vocabularies


def prepared(
    preprocessor: Preprocessor, records: pa.Table, vocabularies: Vocabularies, rejects: Rejects | None = None
) -> Examples:
    rows = preprocessor.tokenize(records, vocabularies, rejects or Rejects())
    return Examples(datasets.Dataset(datasets.table.InMemoryTable(rows)))


def batch_of(preprocessor: Preprocessor, records: pa.Table, vocabularies: Vocabularies) -> Batch:
    examples = prepared(preprocessor, records, vocabularies)
    return examples.batch(range(len(examples)))


def by_id(batch: Batch, ragged: Any) -> dict[int, list[Any]]:
    return {int(i): sequence.tolist() for i, sequence in zip(batch.ids, ragged.to_list(), strict=True)}


def decoded(vocabularies: Vocabularies, ids: list[int]) -> list[str]:
    """The texts between end marks."""
    texts, end = [[]], vocabularies.tokenizer.end
    for token in ids:
        texts.append([]) if token == end else texts[-1].append(token)
    return [vocabularies.tokenizer.decode(part) for part in texts]


def test_text_predicts_its_next_token() -> None:
    records = pa.table({"text": ["ab", "", "c"]})
    vocabularies = LanguageModelingPreprocessor().learn(records, Bytes())
    batch = batch_of(LanguageModelingPreprocessor(), records, vocabularies)
    end = vocabularies.tokenizer.end
    a, b, c = (vocabularies.tokenizer.encode([x])[0][0] for x in "abc")
    assert by_id(batch, batch.tokens) == {0: [end, a, b], 1: [end], 2: [end, c]}
    assert by_id(batch, batch.targets) == {0: [a, b, end], 1: [end], 2: [c, end]}
    assert dict(zip(batch.ids.tolist(), batch.num_bytes.tolist(), strict=True)) == {0: 3, 1: 1, 2: 2}


def test_a_class_for_each_text() -> None:
    records = pa.table({"text": ["good", "", "so so"], "label": ["pos", "neg", "pos"]})
    vocabularies = ClassificationPreprocessor().learn(records, Bytes())
    assert vocabularies.labels == ("neg", "pos")
    batch = batch_of(ClassificationPreprocessor(), records, vocabularies)
    assert by_id(batch, batch.targets) == {0: [1], 1: [0], 2: [1]}
    assert {i: decoded(vocabularies, ids) for i, ids in by_id(batch, batch.tokens).items()} == {
        0: ["", "good"],
        1: ["", ""],
        2: ["", "so so"],
    }


def test_pairs_are_parted_by_an_end_mark() -> None:
    records = pa.table({"text": ["a", "b"], "pair": ["xy", ""], "label": ["1", "0"]})
    vocabularies = ClassificationPreprocessor().learn(records, Bytes())
    batch = batch_of(ClassificationPreprocessor(), records, vocabularies)
    assert [decoded(vocabularies, ids) for _, ids in sorted(by_id(batch, batch.tokens).items())] == [
        ["", "a", "xy"],
        ["", "b", ""],
    ]


@pytest.mark.parametrize("labels", [["a, b", "", "b"], [["b", "a", "a"], [], ["b"]]])
def test_any_number_of_classes(labels: list[Any]) -> None:
    records = pa.table({"text": ["x", "y", "z"], "label": labels})
    preprocessor = ClassificationPreprocessor(answer="many")
    vocabularies = preprocessor.learn(records, Bytes())
    batch = batch_of(preprocessor, records, vocabularies)
    assert {i: sorted(ids) for i, ids in by_id(batch, batch.targets).items()} == {0: [0, 1], 1: [], 2: [1]}


def test_numbers() -> None:
    records = pa.table({"text": ["x", "y"], "label": ["2.5", "-1"]})
    preprocessor = ClassificationPreprocessor(answer="number")
    vocabularies = preprocessor.learn(records, Bytes())
    batch = batch_of(preprocessor, records, vocabularies)
    assert batch.targets.values.dtype.is_floating_point
    assert by_id(batch, batch.targets) == {0: [2.5], 1: [-1.0]}
    with pytest.raises(InputError, match=r"file, line 9: the label 'nan' is no number; see form.answer"):
        prepared(preprocessor, pa.table({"text": ["x"], "label": ["nan"], "origin": ["file, line 9"]}), vocabularies)


def test_ignored_classes_are_read_and_not_predicted() -> None:
    records = pa.table({"text": ["x", "y", "z"], "label": ["a", "b", "?"]})
    preprocessor = ClassificationPreprocessor(ignored=("?",))
    vocabularies = preprocessor.learn(records, Bytes())
    assert vocabularies.labels == ("a", "b")
    batch = batch_of(preprocessor, records, vocabularies)
    assert by_id(batch, batch.targets) == {0: [0], 1: [1], 2: [-100]}


def test_an_unknown_label_is_told_or_left_out() -> None:
    preprocessor = ClassificationPreprocessor()
    vocabularies = preprocessor.learn(pa.table({"text": ["x", "y"], "label": ["positive", "negative"]}), Bytes())
    records = pa.table({"text": ["p", "q"], "label": ["positiv", "negative"], "origin": ["f, line 1", "f, line 2"]})
    with pytest.raises(
        InputError, match=r"f, line 1: the label 'positiv' .*did you mean positive.*data\.on_error=skip"
    ):
        prepared(preprocessor, records, vocabularies)
    rejects = Rejects("skip")
    assert len(prepared(preprocessor, records, vocabularies, rejects)) == 1
    assert rejects.counts == {"unknown label": 1}


def test_an_empty_label_is_no_class_where_there_may_be_any_number() -> None:
    records = pa.table(
        {"text": ["x", "y", "z"], "label": ["1", "2", ""], "origin": ["f, line 1", "f, line 2", "f, line 3"]}
    )
    for answer, advice in (("one", "; form.answer=many takes that for no class"), ("number", "")):
        preprocessor = ClassificationPreprocessor(answer=answer)  # type: ignore[arg-type]
        vocabularies = preprocessor.learn(records, Bytes())
        assert vocabularies.labels in (None, ("1", "2"))
        with pytest.raises(InputError, match=rf"^f, line 3: the label is empty{advice}; data\.on_error=skip"):
            prepared(preprocessor, records, vocabularies)
        rejects = Rejects("skip")
        assert len(prepared(preprocessor, records, vocabularies, rejects)) == 2
        assert rejects.counts == {"empty label": 1}
    preprocessor = ClassificationPreprocessor(answer="many")
    batch = batch_of(preprocessor, records, preprocessor.learn(records, Bytes()))
    assert by_id(batch, batch.targets) == {0: [0], 1: [1], 2: []}


@pytest.mark.parametrize(
    ("labels", "quantities"),
    [
        (["1", "2.5", "2.5", "1"], True),
        ([str(number) for number in range(30)], True),
        ([str(number) for number in range(30)] * 3, False),  # of each there are three: classes
        ([str(number) for number in range(9)], False),
        (["1", "2.5", "nan"], False),
        (["1", "2.5", "v2"], False),
    ],
)
def test_labels_that_look_like_quantities(
    labels: list[str], quantities: bool, caplog: pytest.LogCaptureFixture
) -> None:
    preprocessor, advice = ClassificationPreprocessor(), "all of them numbers: form.answer=number learns quantities"
    vocabularies = preprocessor.learn(pa.table({"text": labels, "label": labels}), Bytes())
    assert caplog.messages == ([f"{len(set(labels))} classes, {advice}"] if quantities else [])
    unknown = pa.table({"text": [*labels, "x"], "label": [*labels, "-3"]})
    with pytest.raises(InputError, match=r"the label '-3' does not occur in the training data") as raised:
        prepared(preprocessor, unknown, vocabularies)
    assert (advice in str(raised.value)) == quantities
    ClassificationPreprocessor(answer="number").learn(unknown, Bytes())
    assert len(caplog.messages) == quantities


def test_every_word_has_its_pieces() -> None:
    records = pa.table({"words": [["Ab", "c"], [], ["c", " "]], "tags": [["X", "Y"], [], ["Y", "_"]]})
    preprocessor = TaggingPreprocessor(words=5, min_frequency=2, ignored=("_",))
    vocabularies = preprocessor.learn(records, Bytes())
    assert vocabularies.words == ("c",)
    batch = batch_of(preprocessor, records, vocabularies)
    assert by_id(batch, batch.extras["pieces"]) == {0: [2, 1], 1: [], 2: [1, 1]}
    assert by_id(batch, batch.extras["words"]) == {0: [0, 1], 1: [], 2: [1, 0]}
    assert by_id(batch, batch.targets) == {0: [0, 1], 1: [], 2: [1, -100]}
    assert vocabularies.tokenizer.decode(by_id(batch, batch.tokens)[0]) == "Abc"


def test_a_word_of_which_the_tokenizer_leaves_nothing_has_a_piece_all_the_same() -> None:
    records = pa.table({"words": [["a", " ", "a"]], "tags": [["X", "Y", "X"]]})
    vocabularies = TaggingPreprocessor().learn(records, Words(min_frequency=1))
    batch = batch_of(TaggingPreprocessor(), records, vocabularies)
    assert batch.extras["pieces"].values.tolist() == [1, 1, 1]
    assert batch.tokens.values[1] == vocabularies.tokenizer.end


def test_tags_must_match_the_words() -> None:
    preprocessor = TaggingPreprocessor()
    vocabularies = preprocessor.learn(pa.table({"words": [["a", "b"]], "tags": [["X", "Y"]]}), Bytes())
    records = pa.table({"words": [["a", "b"], ["a"]], "tags": [["X"], ["Z"]], "origin": ["f, line 1", "f, line 2"]})
    with pytest.raises(InputError, match="f, line 1: 2 words and 1 tag: expected one for each"):
        prepared(preprocessor, records, vocabularies)
    rejects = Rejects("skip")
    assert len(preprocessor.tokenize(records, vocabularies, rejects)) == 0
    assert rejects.counts == {"tags do not match the words": 1, "unknown label": 1}


texts = st.text("abc ", max_size=9)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=8))
def test_a_prefix_is_what_has_been_written(pairs: list[tuple[str, str]]) -> None:
    preprocessor = SequenceToSequencePreprocessor()
    records = pa.table({"source": [a for a, _ in pairs], "target": [b for _, b in pairs]})
    vocabularies = preprocessor.learn(records, Bytes())
    batch = batch_of(preprocessor, records, vocabularies)
    end = vocabularies.tokenizer.end
    prefixes, targets = by_id(batch, batch.extras["prefix"]), by_id(batch, batch.targets)
    for i, (source, target) in enumerate(pairs):
        assert by_id(batch, batch.tokens)[i] == [*vocabularies.tokenizer.encode([source])[0], end]
        assert targets[i] == [*vocabularies.tokenizer.encode([target])[0], end]
        assert prefixes[i] == [end, *targets[i][:-1]]
    order = list(zip(batch.extras["prefix"].lengths.tolist(), batch.tokens.lengths.tolist(), strict=True))
    assert order == sorted(order, reverse=True)
    assert batch.tokens_per_example.tolist() == [a + b for a, b in order]
    assert batch.num_tokens == sum(batch.tokens_per_example.tolist())
    smallest = int(batch.tokens_per_example.max())
    parts = batch.split(smallest)
    assert max(part.num_tokens for part in parts) <= smallest
    assert torch_lists(parts, "prefix") == batch.extras["prefix"].values.tolist()


def torch_lists(parts: list[Batch], name: str) -> list[int]:
    return [value for part in parts for value in part.extras[name].values.tolist()]


def test_a_pair_is_told_as_two_texts() -> None:
    preprocessor = ClassificationPreprocessor()
    records = pa.table({"text": ["a", "b c"], "pair": ["xy", ""], "label": ["1", "0"]})
    vocabularies = preprocessor.learn(records, Bytes())
    examples = prepared(preprocessor, records, vocabularies)
    items = [preprocessor.format_input(examples.batch([i]), vocabularies) for i in range(2)]
    assert items == [{"text": "a", "pair": "xy"}, {"text": "b c", "pair": ""}]
    single = prepared(preprocessor, records.select(["text", "label"]), vocabularies)
    assert [preprocessor.format_input(single.batch([i]), vocabularies) for i in range(2)] == [
        {"text": "a"},
        {"text": "b c"},
    ]
    assert [preprocessor.format_reference(single.batch([i]), vocabularies) for i in range(2)] == ["1", "0"]
    assert "pair" in preprocessor.sample_input(["text", "pair", "label"])
    assert "pair" not in preprocessor.sample_input(["text", "label"])
    for fields in (["text", "pair"], ["text"]):
        assert preprocessor.parse_input(json.loads(preprocessor.sample_input(fields))).keys() == set(fields)
    for item in ({}, {"pair": "x"}, {"text": "x", "pair": 3}, {"text": None}):
        with pytest.raises(ValueError, match=r'^expected an object such as \{"text": "[^"]*"\}, or .*"pair": "'):
            preprocessor.parse_input(item)


def test_only_some_have_a_pair() -> None:
    records = pa.table({"text": ["a", "b"], "pair": ["x", None], "label": ["1", "0"]})
    vocabularies = ClassificationPreprocessor().learn(pa.table({"text": ["ab"] * 2, "label": ["1", "0"]}), Bytes())
    batch = batch_of(ClassificationPreprocessor(), records, vocabularies)
    assert {i: decoded(vocabularies, ids) for i, ids in by_id(batch, batch.tokens).items()} == {
        0: ["", "a", "x"],
        1: ["", "b"],
    }


def test_every_place_of_a_known_type_is_a_label() -> None:
    preprocessor = TaggingPreprocessor(scheme="IOBES")
    vocabularies = preprocessor.learn(pa.table({"words": [["Rome", "is"]], "tags": [["B-LOC", "O"]]}), Bytes())
    assert vocabularies.labels == ("B-LOC", "E-LOC", "I-LOC", "O", "S-LOC")
    records = pa.table({"words": [["New", "York"]], "tags": [["B-LOC", "I-LOC"]]})
    batch = batch_of(preprocessor, records, vocabularies)
    assert preprocessor.format_input(batch, vocabularies) == {"words": ["New", "York"]}
    assert preprocessor.format_reference(batch, vocabularies) == ["B-LOC", "E-LOC"]


def test_tags_as_they_are_may_follow_one_another_in_any_way() -> None:
    records = pa.table({"words": [["a", "b", "c"]], "tags": [["I-X", "B-X", "O"]]})
    for preprocessor, bound in ((TaggingPreprocessor(), True), (TaggingPreprocessor(scheme=None), False)):
        assert (build_context(preprocessor, preprocessor.learn(records, Bytes()))["allowed"] is not None) == bound


def test_two_vocabularies() -> None:
    preprocessor = SequenceToSequencePreprocessor(Words(min_frequency=1))
    records = pa.table({"source": ["jump left"], "target": ["TURN JUMP"]})
    vocabularies = preprocessor.learn(records, Words(min_frequency=1))
    assert vocabularies.build_context["vocabulary"] == vocabularies.build_context["target_vocabulary"] == 4
    assert vocabularies.tokenizer.digest != vocabularies.written.digest
    batch = batch_of(preprocessor, records, vocabularies)
    assert preprocessor.format_input(batch, vocabularies) == {"source": "jump left"}
    assert preprocessor.format_reference(batch, vocabularies) == "TURN JUMP"


@pytest.mark.parametrize(
    ("preprocessor", "records"),
    [
        (ClassificationPreprocessor(), {"text": ["x", "y"], "label": ["a", "b"]}),
        (TaggingPreprocessor(words=3), {"words": [["x", "y"]], "tags": [["a", "b"]]}),
        (SequenceToSequencePreprocessor(Words(min_frequency=1)), {"source": ["x"], "target": ["y"]}),
        (LanguageModelingPreprocessor(), {"text": ["x"]}),
    ],
)
def test_vocabularies_come_back_from_their_files(
    preprocessor: Preprocessor, records: dict[str, Any], tmp_path: Any
) -> None:
    vocabularies = preprocessor.learn(pa.table(records), Bytes())
    loaded = Vocabularies.from_files(vocabularies.files, vocabularies.end_tokens, tmp_path)
    assert loaded.digest == vocabularies.digest
    assert (loaded.labels, loaded.words) == (vocabularies.labels, vocabularies.words)
    assert loaded.build_context["target_vocabulary"] == vocabularies.build_context["target_vocabulary"]
    # What is only to be predicted from needs no targets.
    unlabelled = pa.table({name: records[name] for name in list(records)[:1]})
    batch = batch_of(preprocessor, unlabelled, loaded)
    assert batch.tokens.values.tolist() == batch_of(preprocessor, pa.table(records), loaded).tokens.values.tolist()


def test_a_field_that_is_missing() -> None:
    told = r"^the task reads text and label, and the data has text: label missing; "
    records = pa.table({"text": ["x"]})
    with pytest.raises(InputError, match=told + r"name the column with data\.columns\.label=COLUMN, or choose another"):
        require_fields(ClassificationPreprocessor(), records, columns=True)
    with pytest.raises(InputError, match=told + "choose another task= or data=$"):
        require_fields(ClassificationPreprocessor(), records, columns=False)


def test_a_single_label_cannot_be_learned() -> None:
    with pytest.raises(InputError, match=r"has 1 label to predict \(a\)"):
        ClassificationPreprocessor().learn(pa.table({"text": ["x"], "label": ["a"]}), Bytes())
