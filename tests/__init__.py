"""The tests. Some use real text beside the project, and are skipped where it is missing."""

from pathlib import Path

PROJECT = Path(__file__).parent.parent
REAL_TEXT = PROJECT.parent / "shared" / "data" / "eli5-category-validation-2.json.gz"
