"""The tests. Some use real text that may lie beside the project, and are skipped where it does not."""

from pathlib import Path

PROJECT = Path(__file__).parent.parent
REAL_TEXT = PROJECT.parent / "shared" / "data" / "eli5-category-validation-2.json.gz"
