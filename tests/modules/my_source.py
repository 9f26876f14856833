"""A researcher's own source, outside the package: counting, as text."""

import pyarrow as pa

from seqlab.data.rejects import Rejects
from seqlab.data.sources.source import Source


class MySource(Source):
    """Texts such as "7 8 9". The test split counts highest."""

    def __init__(self, rows: int = 30) -> None:
        self.rows = rows

    def fingerprint(self) -> str:
        return f"MySource {self.rows}"

    def read(self, rejects: Rejects) -> dict[str, pa.Table]:
        begins = {"train": 0, "validation": self.rows, "test": 2 * self.rows}
        return {
            split: pa.table({"text": [f"{i} {i + 1} {i + 2}" for i in range(begin, begin + self.rows)]})
            for split, begin in begins.items()
        }
