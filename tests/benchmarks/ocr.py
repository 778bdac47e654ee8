"""How well print is read: rasterised development pages, against their own text layer.

    python tests/benchmarks/ocr.py --pages 60 --out runs/ocr.jsonl

For each way of showing a page (150 dpi, skewed by 2°, JPEG 40, 100 dpi, light on dark, its text set in two columns, a photo of 12 megapixels
with the page on a table): recall of the layer's words, seconds, and nDCG@5
of word queries over the pages by the application's own lexical search, as a share of what the text layer itself reaches. Queries are
runs of words from the layer (five words from each page, around its rarest one). What was read is kept in --out, so that a run goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import re
import tarfile
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mmsearch.catalog import Catalog
from mmsearch.items import ItemDraft, Source
from mmsearch.media import load_pymupdf
from mmsearch.media.ocr import READ_SIDE_PX, Reader, find_terms

WORD = re.compile(r"[^\W\d_]{3,}|\d{2,}")


def as_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resized(image: Image.Image, scale: float) -> Image.Image:
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def in_two_columns(layer: str) -> Image.Image:
    """The words of a page set on A4 in two columns, in the largest type from 10 to 5 points in which they fit; 150 dpi."""
    pymupdf = load_pymupdf()
    words = layer.split()
    halves = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
    for size in np.arange(10, 4.9, -0.5):
        with pymupdf.open() as document:
            page = document.new_page(width=595, height=842)
            left = [
                page.insert_textbox((x, 50, x + 240, 800), half, fontsize=float(size), fontname="helv")
                for x, half in zip((45, 310), halves, strict=True)
            ]
            if min(left) >= 0 or size <= 5:
                pixmap = page.get_pixmap(dpi=150, alpha=False)
                return Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples)
    raise AssertionError("the smallest size is taken whatever fits")


def photographed(image: Image.Image) -> Image.Image:
    """4000 × 3000 pixels (3000 × 4000 for an upright page): the page on a brown table, turned by 1.5°, lit from one side, as JPEG 85."""
    width, height = (4000, 3000) if image.width > image.height else (3000, 4000)
    page = resized(image, 0.86 * min(width / image.width, height / image.height)).convert("RGBA")
    page = page.rotate(1.5, Image.Resampling.BICUBIC, expand=True)
    table = Image.new("RGB", (width, height), (96, 70, 48))
    table.paste(page, ((width - page.width) // 2, (height - page.height) // 2), page)
    light = np.linspace(1.0, 0.72, width, dtype=np.float32)[None, :, None]
    return as_jpeg(Image.fromarray((np.asarray(table) * light).astype(np.uint8)), 85)


Variant = Callable[[Image.Image, str], Image.Image]
VARIANTS: dict[str, Variant] = {
    "clean": lambda image, _: image,
    "skewed": lambda image, _: image.rotate(2, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)),
    "jpeg40": lambda image, _: as_jpeg(image, 40),
    "100dpi": lambda image, _: resized(image, 100 / 150),
    "inverted": lambda image, _: Image.fromarray(255 - np.asarray(image)),
    "columns": lambda _, layer: in_two_columns(layer),
    "photo": lambda image, _: photographed(image),
}


def development_pages(data: Path, count: int) -> Iterator[tuple[str, Image.Image, str]]:
    """(name, picture at 150 dpi, text layer) of pages with at least 25 words, at most four a document, spread over the documents."""
    pymupdf = load_pymupdf()
    found = []
    with tarfile.open(data / "pdf" / "pdf-00.tar") as archive:
        for member in archive:
            if int(hashlib.sha1(member.name.encode()).hexdigest(), 16) % 10:
                continue
            document = pymupdf.open(stream=archive.extractfile(member).read(), filetype="pdf")  # type: ignore[union-attr]
            chosen = [n for n in range(len(document)) if len(words_of(document[n].get_text())) >= 25]
            for place, n in enumerate(chosen[1 :: max(1, len(chosen) // 4)][:4]):
                found.append((place, member.name, n, document))
    found.sort(key=lambda row: (row[0], row[1]))
    for _, name, n, document in found[:count]:
        pixmap = document[n].get_pixmap(dpi=150, alpha=False)
        image = Image.frombytes("RGB", (pixmap.width, pixmap.height), pixmap.samples)
        yield f"{name}#{n}", image, document[n].get_text()


def words_of(text: str) -> Counter[str]:
    plain = unicodedata.normalize("NFKC", text)  # layers hold ligatures, recognised text does not
    return Counter(word.lower() for word in WORD.findall(plain))


def recall(read: str, layer: str) -> float:
    """Share of the layer's words, each as often as it stands there, that were read."""
    sought, found = words_of(layer), words_of(read)
    return sum((sought & found).values()) / max(1, sum(sought.values()))


def queries(layers: dict[str, str]) -> list[tuple[str, str]]:
    """(page, five words of it in a row around its rarest word)."""
    spread = Counter(word for layer in layers.values() for word in words_of(layer))
    made = []
    for name, layer in layers.items():
        words = [word for word in WORD.findall(layer) if len(word) > 3] or WORD.findall(layer)
        rarest = min(range(len(words)), key=lambda n: (spread[words[n].lower()], -len(words[n]), n))
        start = max(0, min(rarest - 2, len(words) - 5))
        made.append((name, " ".join(words[start : start + 5])))
    return made


def ndcg(texts: dict[str, str], asked: list[tuple[str, str]]) -> float:
    """nDCG@5 of the lexical search over these texts; one page is right for each query."""
    with tempfile.TemporaryDirectory() as folder, Catalog.open(Path(folder), create=True) as catalog:
        source = Source(Path("/pages.pdf"), "0" * 64, 1, 1)
        source_id = catalog.sources.begin(source, model_key="none")
        drafts = [ItemDraft(source, "page", n, page_number=n + 1, text=text) for n, text in enumerate(texts.values())]
        ids = catalog.items.save(source_id, drafts, np.tile(np.eye(1, 8, dtype=np.float32), (len(drafts), 1)), "none")
        catalog.sources.finish(source_id)
        name_of = dict(zip(ids, texts, strict=True))
        gained = 0.0
        for name, query in asked:
            found = [name_of[i] for i in catalog.text.match(query, 5, ("page",)).ids.tolist()]
            gained += 1 / math.log2(found.index(name) + 2) if name in found else 0.0
        return gained / len(asked)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--pages", type=int, default=60)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--engine", default="", help="tesseract or rapidocr; default: as the application chooses")
    parser.add_argument("--out", type=Path, default=Path("runs/ocr.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(row["page"], row["variant"], row["asked"]): row for row in rows}
    layers: dict[str, str] = {}
    terms = find_terms("eng", folder=Path(tempfile.mkdtemp()))
    if options.engine:
        terms = type(terms)(terms.languages, terms.tessdata, (options.engine,))
    reader = Reader(terms)
    with options.out.open("a") as out:
        for name, image, layer in development_pages(options.data, options.pages):
            layers[name] = layer
            for variant in options.variants.split(","):
                if (name, variant, options.engine) in known:
                    continue
                picture = VARIANTS[variant](image, layer)
                picture = resized(picture, READ_SIDE_PX / max(picture.size))
                began = time.process_time()
                read = reader.read(picture, is_page=variant != "photo")
                row = {
                    "page": name,
                    "variant": variant,
                    "asked": options.engine,
                    "engine": read.engine,
                    "text": read.text,
                }
                row |= {"recall": round(recall(read.text, layer), 4), "cpu_s": round(time.process_time() - began, 2)}
                known[name, variant, options.engine] = row
                out.write(json.dumps(row) + "\n")
                out.flush()
    asked = queries(layers)
    top = ndcg(layers, asked)
    print(f"{len(layers)} pages; text layer: nDCG@5 {top:.3f}")
    for variant in options.variants.split(","):
        of = [known[name, variant, options.engine] for name in layers]
        share = ndcg({row["page"]: row["text"] for row in of}, asked) / top
        by = Counter(row["engine"] for row in of)
        parts = []
        for engine in by:
            some = [row for row in of if row["engine"] == engine]
            parts.append(
                f"{engine} {len(some)}: recall {np.mean([r['recall'] for r in some]):.3f}, {np.mean([r['cpu_s'] for r in some]):.2f} s"
            )
        print(
            f"{variant:9} recall {np.mean([r['recall'] for r in of]):.3f}  nDCG@5 share {share:.3f}  ({'; '.join(parts)})"
        )


if __name__ == "__main__":
    main()
