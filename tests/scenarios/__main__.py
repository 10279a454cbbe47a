"""`python -m tests.scenarios` plays everything and prints the table of docs/doors.md; `--write` puts it there."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.scenarios.doors import DOORS
from tests.scenarios.page import PAGE, printed, replaced
from tests.scenarios.playing import world
from tests.scenarios.scenarios import SCENARIOS


def main() -> None:
    """Play, print or write."""
    with tempfile.TemporaryDirectory() as home, world(Path(home), DOORS, SCENARIOS) as made:
        text = printed(made.play())
    if "--write" in sys.argv[1:]:
        PAGE.write_text(replaced(PAGE.read_text(), text))
    else:
        print(text)


if __name__ == "__main__":
    main()
