"""Files in the layout of the Open Bandit Dataset."""

from pathlib import Path

import numpy as np

ITEMS = 4


def release(folder: Path, rows: int = 200, campaign: str = "men") -> Path:
    """Write files in the layout of the release, over four days, of the policy `random`."""
    rng = np.random.default_rng(0)
    where = folder / "random" / campaign
    where.mkdir(parents=True)
    head = ["", "timestamp", "item_id", "position", "click", "propensity_score"]
    head += [f"user_feature_{n}" for n in range(4)] + [f"user-item_affinity_{n}" for n in range(ITEMS)]
    lines = [",".join(head)]
    for n in range(rows):
        day, second = divmod(n * 4 * 86_400 // rows, 86_400)
        clock = f"2019-11-{24 + day} {second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}.004101+00:00"
        codes = [f"{rng.integers(3):032x}" for _ in range(4)]
        row = [n, clock, rng.integers(ITEMS), rng.integers(1, 4), int(rng.random() < 0.3), 0.25, *codes]
        lines.append(",".join(map(str, [*row, *(10.0 * k + n for k in range(ITEMS))])))
    (where / f"{campaign}.csv").write_text("\n".join(lines) + "\n")
    items = [",item_id,item_feature_0,item_feature_1,item_feature_2,item_feature_3"]
    items += [f"{n},{n},{n - 1.5},a{n % 2},b,c{n}" for n in range(ITEMS)]
    (where / "item_context.csv").write_text("\n".join(items) + "\n")
    return folder
