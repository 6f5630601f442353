"""Write ftcourse/datasets/orders/*.jsonl from the grammar. Run it after the grammar has changed."""
import json
from pathlib import Path

from ftcourse.orders import SPLITS, make_split

for split in SPLITS:
    out = Path(__file__).resolve().parent.parent/"ftcourse"/"datasets"/"orders"/f"{split}.jsonl"
    out.write_bytes("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in make_split(split)).encode())
    print(f"{out.name}: {sum(1 for _ in out.open(encoding='utf-8'))} rows")
