"""The code of the Python guide runs, block after block."""

import re
from pathlib import Path

import pytest

from tests.api.test_examples import shop

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "python.md"

__all__ = ["shop"]


@pytest.mark.slow
def test_the_guide_runs(shop: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for n, block in enumerate(blocks):
        text = block.replace(
            'corank.train("shop/config.yaml")', 'corank.train("shop/config.yaml", resume=True)'
        )
        exec(compile(text, f"{GUIDE.name}, block {n + 1}", "exec"), names)
    assert (shop / "stages.svg").is_file() and list((shop / "shop/packed/fewer.tables").glob("log-*.parquet"))
