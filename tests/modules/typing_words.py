"""Words as people type them behind a verb: a tiny run on the project's own corpus."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CORPUS = REPOSITORY / "tests" / "corpus"
TINY = [
    "data=text",
    f"data.path={CORPUS / 'train.txt'}",
    f"data.validation={CORPUS / 'validation.txt'}",
    f"data.test={CORPUS / 'test.txt'}",
    "tokenizer.vocab_size=400",
    "model.width=16",
    "batch.tokens=512",
    "schedule.warmup_steps=2",
    "trainer.max_epochs=null",
    "trainer.max_steps=6",
    "trainer.eval_every=3",
    "trainer.save_every=2",
    "trainer.log_every=2",
]


def tiny(*words: str) -> list[str]:
    """TINY with some settings replaced or added: to type a setting twice is a mistake."""
    given = {word.partition("=")[0] for word in words}
    return [*(word for word in TINY if word.partition("=")[0] not in given), *words]


Outcome = tuple[int, str, str]
