"""From a finished run to the checkpoint in the package: measure, write the model card, put it in place.

`python -m mmsearch.training.ship --run runs/mini` evaluates `runs/mini/checkpoint` on the development split and copies it, with
its card, to `mmsearch/checkpoints/mini` (or to `--target`).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections import Counter
from datetime import date
from pathlib import Path

import yaml

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.evaluation.development import Evaluation, evaluate
from mmsearch.evaluation.encoded import Encoded, match_scales
from mmsearch.evaluation.fit_ranking import fitted_scales, material_of, write_scales
from mmsearch.evaluation.report import Report
from mmsearch.evaluation.split import Split
from mmsearch.evaluation.targets import LARGEST_BYTES
from mmsearch.training.recipe import load_recipe
from mmsearch.training.recipe_fields import Recipe
from mmsearch.training.sources import data_folder, load_files, load_pairs, load_photos

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints" / "mini"


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


def model_card(recipe: Recipe, embedder: Embedder, report: Report, data: Path) -> str:
    """README.md of the checkpoint."""
    sets = "\n".join(f"| {name} | {count:,} | {words} |" for name, count, words in licences(data))
    steps = sum(stage.steps for stage in recipe.stages)
    front = {"license": "other", "base_model": "none (trained from scratch)", "pipeline_tag": "feature-extraction"}
    return f"""---
{yaml.safe_dump(front, sort_keys=True).strip()}
---
# {recipe.name}

A compact VLM2Vec-V2: the architecture of Qwen2-VL, at a scale that a laptop's processor embeds with, in the public Qwen2-VL layout.
Made by `mmsearch/training` (recipe `mini`, {steps:,} steps, {date.today().isoformat()}), the embedded default of mmsearch.

- Input: text, images, 8-frame videos, or any of them together; prompts as in `mmsearch/prompts.py`. Tokens: WordPiece of
  all-MiniLM-L6-v2 with Qwen2-VL's special tokens behind it.
- Output: the last hidden state of the last token, {embedder.dim} dimensions, unit length.
- Pixels at most: {", ".join(f"{kind} {pixels:,}" for kind, pixels in embedder.max_pixels.items())} (per frame for clips).
- Trained by distillation: every text, photo, page and clip is drawn to the vector that the text teacher all-MiniLM-L6-v2
  (Apache-2.0) gives to its words, contrastively against a bank of other such vectors; page texts also to queries made of their own
  words. Each kind of item has a direction of its own beside that (`mmsearch/training/kind_axes.py`), so that an instruction's kind comes
  first in a mixed library. What was run, failures too: `mmsearch/training/LOG.md`.
- The first three coordinates tell the kind (page, image, clip), the rest are the teacher's principal axes, widest first: a vector may be cut off behind
  any of them and brought to unit length again.
- It reads English. How far it reads print from pixels, the rows "picture alone" below tell.

## Numbers

On the development split of the material (`python -m mmsearch.evaluation.development`), which was not trained on: what was aimed at,
what was reached, and what others reach on the same queries. A missed target is a missed target.

{report.markdown()}
Pages are asked for in their own words (titles and passages of 6 to 10 words: one page is right) and by questions that were written by
hand with the pages in view, in few of their words (`mmsearch/evaluation/page_queries.jsonl`; one or several pages are right). Slides
are PDFs of landscape pages with few words, papers such of portrait pages with many. In brackets: 95 % bootstrap intervals. `R@k`: a
right one is among the first k. `match_scale` in `mmsearch.json`, which the application's relevance rests on, was measured on this split
too.

## Trained on

Weights trained on material for non-commercial research (Flickr8k, Tiny-ImageNet, samples of ImageNet, parts of OpenStax and of the
lecture slides) are offered for research and personal use; for commercial use train anew without those sets (`PHOTO_SHARES` in `mmsearch/training/examples.py` says how often each
is drawn).

| set | records | licence as recorded |
|---|---|---|
{sets}
"""


def ship(
    run: Path, *, work: Path, data: Path | None = None, recipe_name: str = "mini", target: Path = SHIPPED
) -> Report:
    """Measure `run/checkpoint`, write its card and copy it over `target`. Returns the numbers.

    Raises: ValueError if it is larger than what the repository may hold.
    """
    checkpoint = run / "checkpoint"
    weights = checkpoint / "model.safetensors"
    if weights.stat().st_size > LARGEST_BYTES:
        raise ValueError(
            f"{weights} has {weights.stat().st_size:,} bytes, more than the {LARGEST_BYTES:,} that may be shipped"
        )
    data = data_folder(data)
    recipe = load_recipe(recipe_name)
    encoded = Encoded(load_embedder(checkpoint), Split(data, work))
    encoded.match_scale, relevance = fitted_scales(material_of(encoded), match_scales(encoded))
    write_scales(checkpoint, encoded.match_scale)
    report = evaluate(Evaluation(checkpoint, encoded))
    card = model_card(recipe, encoded.embedder, report, data)
    card += f"\n## Relevance\n\n`python -m mmsearch.evaluation.fit_ranking`, {relevance}\n"
    record = json.dumps(report.record(), indent=1, ensure_ascii=False)
    (checkpoint / "README.md").write_text(card, encoding="utf-8")
    (checkpoint / "development.json").write_text(record, encoding="utf-8")
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(checkpoint.iterdir()):
        shutil.copyfile(file, target / file.name)
    return report


def _most_common(words: list[str]) -> str:
    named = [word for word, _ in Counter(words).most_common(4) if word]
    return "; ".join(named) + (" …" if len(set(words)) > 4 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/mini"))
    parser.add_argument("--work", type=Path, default=Path("runs/work"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--recipe", default="mini")
    parser.add_argument("--target", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = ship(
        arguments.run,
        work=arguments.work,
        data=arguments.data,
        recipe_name=arguments.recipe,
        target=arguments.target,
    )
    log.info("%s", report.markdown())


if __name__ == "__main__":
    main()
