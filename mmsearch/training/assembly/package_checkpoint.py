"""From a finished run to the checkpoint in the package: measure, write the model card, put it in place.

`python -m mmsearch.training.assembly.package_checkpoint --run runs/mini` evaluates `runs/mini/checkpoint` on the development split and copies it, with
its card, to `mmsearch/checkpoints/mini` (or to `--target`).
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import yaml

from mmsearch.embedders import Embedder, load_embedder
from mmsearch.evaluation.development import Evaluation, evaluate, read_costs
from mmsearch.evaluation.encoded import Encoded, match_scales
from mmsearch.evaluation.fit_ranking import fitted_scales, material_of, write_scales
from mmsearch.evaluation.report import Report
from mmsearch.evaluation.split import Split
from mmsearch.evaluation.targets import LARGEST_BYTES
from mmsearch.training.assembly.material import Material
from mmsearch.training.assembly.pretrained_parts import UNTESTED_SCRIPTS
from mmsearch.training.assembly.settings import RECIPES, Assembly, load_assembly
from mmsearch.training.datasets.shared_material import data_folder, load_files, load_pairs, load_photos

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).resolve().parents[2] / "checkpoints" / "mini"


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
    material = Material(data, data)
    rows.append(("text/captions_multi30k", len(material.translations), "non-commercial research"))
    rows.append(
        ("written.jsonl.zst", len(material.written), "written for this project by language models, as mmsearch itself")
    )
    return rows


def model_card(recipe: Assembly, embedder: Embedder, report: Report, data: Path) -> str:
    """README.md of the checkpoint."""
    scripts = ", ".join(sorted(script.capitalize() for script in UNTESTED_SCRIPTS))
    sets = "\n".join(f"| {name} | {count:,} | {words} |" for name, count, words in licences(data))
    front = {
        "license": "other",
        "base_model": [
            "intfloat/multilingual-e5-small",
            "sentence-transformers/all-MiniLM-L6-v2",
            "EfficientNet-Lite2 (ImageNet)",
        ],
        "pipeline_tag": "feature-extraction",
    }
    return f"""---
{yaml.safe_dump(front, sort_keys=True).strip()}
---
# {recipe.name}

A compact vision-language embedder, assembled from three open pretrained parts and trained by VLM2Vec-V2's recipe: instructions on both sides,
in-batch contrastive learning with further negatives, false negatives masked, sources mixed by weights. Made by `mmsearch/training/assembly`
(recipe `mini`, {date.today().isoformat()}), the embedded default of mmsearch.

- Parts: EfficientNet-Lite2 with ImageNet's weights (Apache-2.0) sees; multilingual-e5-small (MIT; 12 layers, a hundred languages, taken from
  its 4-bit package) reads, and all-MiniLM-L6-v2 (Apache-2.0; 6 layers) reads English beside it. `mmsearch/embedders/forward/compact_vlm_model.py` says how they
  are joined. Of the 250,000 pieces of text that the former knows 50,000 rare ones are left out, three in four of the scripts {scripts}: words there are cut
  finer.
- Input: text, pictures, clips as frames, or any of them together, with an instruction (`mmsearch/prompts.py`). Visual tokens and text go through
  the multilingual encoder in one sequence; the instruction is read by itself and gates, mixes and shifts the vector.
- Output: {embedder.dim} dimensions, unit length. The first three coordinates tell the kind (page, image, clip), the rest are the principal axes of
  what texts say, widest first: a vector may be cut off behind any of them and brought to unit length again.
- Pixels: {", ".join(f"{kind} {pixels:,}" for kind, pixels in embedder.max_pixels.items())} (per frame for clips); pictures are resized to that.
- It does not read print from pixels; mmsearch has text recognition for that. What was run, failures too: `mmsearch/training/LOG.md`.
- Storage: token tables and the layers that were not trained in 4 bits, as they came; most other matrices in 8 bits with a scale per row; the rest in bfloat16.

## Numbers

On the development split of the material (`python -m mmsearch.evaluation.development`), which was not trained on: what was aimed at,
what was reached, and what others reach on the same queries. A missed target is a missed target. Learning rates, steps and the sizes above were chosen
while looking at this split.

{report.markdown()}
Pages are asked for in their own words (titles and passages of 6 to 10 words: one page is right) and by questions that were written by
hand with the pages in view, in few of their words (`mmsearch/evaluation/page_queries.jsonl`; one or several pages are right), and by
paraphrases without a word in common. Slides are PDFs of landscape pages with few words, papers such of portrait pages with many. In brackets:
95 % bootstrap intervals. `R@k`: a right one is among the first k. `match_scale` in `mmsearch.json`, which the application's relevance rests on,
was measured on this split too. The vision part's classifier is in the checkpoint, with the names of its thousand classes: among them those of the split's
pictures of ImageNet's classes, though these pictures were not trained on here (the vision part's makers trained on their classes).

## Trained on

Weights trained on material for non-commercial research (Flickr8k, Multi30k, Tiny-ImageNet, samples of ImageNet, parts of OpenStax and of the
lecture slides) are offered for research and personal use; for commercial use train again without those sets (`shares` and `weights` in
`mmsearch/training/assembly/mini.yaml` say how often each is drawn).

| set | records | licence as recorded |
|---|---|---|
{sets}
"""


def put_into_package(
    run: Path,
    *,
    work: Path,
    data: Path | None = None,
    recipe_file: Path = RECIPES / "mini.yaml",
    target: Path = SHIPPED,
    costs: Mapping[str, float] | None = None,
) -> Report:
    """Measure `run/checkpoint`, write its card and copy it over `target`. Returns the numbers.

    Args:
        costs: what a whole ingest was measured to take (`tests/benchmarks/bench.py`), to be judged with the rest.

    Raises: ValueError if it is larger than what the repository may hold.
    """
    checkpoint = run / "checkpoint"
    weights = checkpoint / "model.safetensors"
    if weights.stat().st_size > LARGEST_BYTES:
        raise ValueError(
            f"{weights} has {weights.stat().st_size:,} bytes, more than the {LARGEST_BYTES:,} that may be shipped"
        )
    data = data_folder(data)
    recipe = load_assembly(recipe_file)
    encoded = Encoded(load_embedder(checkpoint), Split(data, work))
    encoded.match_scale, relevance = fitted_scales(material_of(encoded), match_scales(encoded))
    write_scales(checkpoint, encoded.match_scale)
    report = evaluate(Evaluation(checkpoint, encoded, costs=costs or {}))
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
    parser.add_argument("--recipe", type=Path, default=RECIPES / "mini.yaml")
    parser.add_argument("--target", type=Path, default=SHIPPED)
    parser.add_argument("--costs", default="", help="as of `python -m mmsearch.evaluation.development`")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report = put_into_package(
        arguments.run,
        work=arguments.work,
        data=arguments.data,
        recipe_file=arguments.recipe,
        target=arguments.target,
        costs=read_costs(arguments.costs),
    )
    log.info("%s", report.markdown())


if __name__ == "__main__":
    main()
