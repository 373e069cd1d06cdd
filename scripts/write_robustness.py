"""Write docs/robustness.md from what `make attack` counted: one row for every class of hostile inputs.

python scripts/write_robustness.py build/attack.jsonl
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections import Counter
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "robustness.md"

HEAD = """\
# What it withstands

<!-- Written by `make attack`. Do not edit. -->

`make attack` sends hostile texts, replies, files and configs by the thousand. An input is survived if it ends in the
right result or in one clear message: never in a traceback, in a figure that is silently different, in something lost
that was paid for, or in a key that leaks. `make test` runs a short form of the same. One line of `tests/attack/` says
what each class is.

| class | tried | survived |
|---|---:|---:|
"""


def main(counts: Path) -> None:
    """Add up the rows of a class, which several tests may have filled, and write the page."""
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    for line in counts.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        tried[row["kind"]] += row["tried"]
        survived[row["kind"]] += row["survived"]
    rows = [f"| {kind} | {tried[kind]:,} | {survived[kind]:,} |" for kind in sorted(tried)]
    total = f"| **all** | {sum(tried.values()):,} | {sum(survived.values()):,} |"
    made = f"\nMade on {datetime.date.today()}, Python {platform.python_version()}, {platform.machine()}.\n"
    PAGE.write_text(HEAD + "\n".join([*rows, total]) + "\n" + made, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
