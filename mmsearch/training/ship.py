"""From a finished run to the checkpoint in the package: measure, write the model card, put it in place.

`python -m mmsearch.training.ship --run runs/mini` evaluates `runs/mini/checkpoint` on the development split and copies it, with
its card, to `mmsearch/checkpoints/mini`.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from mmsearch.embedders import load_embedder
from mmsearch.embedders.checkpoint import SIDECAR
from mmsearch.evaluation.development import Metrics, evaluate, match_scales, table_markdown
from mmsearch.items import MatchScale
from mmsearch.training.recipe import load_recipe
from mmsearch.training.sources import data_folder, load_files, load_pairs, load_photos

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "mini"
LARGEST_BYTES = 64 * 1024 * 1024


def licences(data: Path) -> list[tuple[str, int, str]]:
    """(set, records, licences) of everything trained on, from the records themselves."""
    rows: list[tuple[str, int, str]] = []
    photos = load_photos(data)
    for name in dict.fromkeys(photo.set_name for photo in photos):
        mine = [photo.licence for photo in photos if photo.set_name == name]
        rows.append((f"photos/{name}", len(mine), _most_common(mine)))
    for kind in ("pdf", "video"):
        files = load_files(data, kind)
        rows.append((kind, len(files), _most_common([file.licence for file in files])))
    for name, count in Counter(pair.set_name for pair in load_pairs(data)).items():
        rows.append((f"text/{name}", count, "as stated by its source"))
    return rows


def model_card(recipe: dict[str, Any], tables: dict[str, dict[str, Metrics]], data: Path) -> str:
    """README.md of the checkpoint."""
    sets = "\n".join(f"| {name} | {count:,} | {words} |" for name, count, words in licences(data))
    steps = sum(stage["steps"] for stage in recipe["stages"])
    front = {"license": "other", "base_model": "none (trained from scratch)", "pipeline_tag": "feature-extraction"}
    return f"""---
{yaml.safe_dump(front, sort_keys=True).strip()}
---
# {recipe["name"]}

A compact VLM2Vec-V2: the architecture of Qwen2-VL, at a scale that a laptop's processor embeds with, in the public Qwen2-VL layout.
Made by `mmsearch/training` (recipe `mini`, {steps:,} steps, {date.today().isoformat()}), the embedded default of mmsearch.

- Input: text, images, 8-frame videos, or any of them together; prompts as in `mmsearch/prompts.py`. Tokens: WordPiece of
  all-MiniLM-L6-v2 with Qwen2-VL's special tokens behind it.
- Output: the last hidden state of the last token, {recipe["model"]["text"]["hidden_size"]} dimensions, unit length.
- Pixels at most: {", ".join(f"{kind} {pixels:,}" for kind, pixels in recipe["max_pixels"].items())} (per frame for clips).
- Trained by distillation: every text, photo, page and clip is drawn to the vector that the text teacher all-MiniLM-L6-v2
  (Apache-2.0) gives to its words, contrastively against a bank of other such vectors.
- It reads English. It does not read print from pixels: a page without a text layer is found by its look only.

## Numbers

On the development split of the material (`mmsearch/evaluation/development.py`), which was not trained on. Known-item search: every
query has one right answer.

{table_markdown(tables)}
## Trained on

Weights trained on material for non-commercial research (Flickr8k, Tiny-ImageNet, samples of ImageNet, parts of OpenStax and of the
lecture slides) are offered for research and personal use; for commercial use train anew without those sets (`mixture` and
`PHOTO_SHARES` say where they come in).

| set | records | licence as recorded |
|---|---|---|
{sets}
"""


def ship(
    run: Path, *, work: Path, data: Path | None = None, recipe_name: str = "mini", target: Path = SHIPPED
) -> dict[str, Any]:
    """Measure `run/checkpoint`, write its card and copy it over `target`. Returns the tables.

    Raises: ValueError if it is larger than what the repository may hold.
    """
    checkpoint = run / "checkpoint"
    weights = checkpoint / "model.safetensors"
    if weights.stat().st_size > LARGEST_BYTES:
        raise ValueError(
            f"{weights} has {weights.stat().st_size:,} bytes, more than the {LARGEST_BYTES:,} that may be shipped"
        )
    data = data_folder(data)
    _write_match_scale(checkpoint, match_scales(load_embedder(checkpoint), data, work))
    tables = evaluate(checkpoint, data, work)
    card = model_card(load_recipe(recipe_name).record(), tables, data)
    (checkpoint / "README.md").write_text(card, encoding="utf-8")
    (checkpoint / "development.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(checkpoint.iterdir()):
        shutil.copyfile(file, target / file.name)
    return tables


def _write_match_scale(checkpoint: Path, scale: dict[str, MatchScale]) -> None:
    sidecar = checkpoint / SIDECAR
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"match_scale": scale}, indent=2), encoding="utf-8")


def _most_common(words: list[str]) -> str:
    named = [word for word, _ in Counter(words).most_common(4) if word]
    return "; ".join(named) + (" …" if len(set(words)) > 4 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/mini"))
    parser.add_argument("--work", type=Path, default=Path("runs/work"))
    parser.add_argument("--recipe", default="mini")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log.info("%s", table_markdown(ship(arguments.run, work=arguments.work, recipe_name=arguments.recipe)))


if __name__ == "__main__":
    main()
