"""From a file's metadata to the hit: what people wrote of it is found by words, given to the model, and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

import mmsearch
from ingest.pipeline import ingest_paths
from mmsearch.items import EmbedInput, Item
from mmsearch.library import Library
from tests import samples
from tests.integration.test_print import LINES, printed
from tests.unit.test_descriptions import bag, packet


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with mmsearch.open(tmp_path / "library", create=True, model="toy") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    return made


@pytest.fixture
def embedded(library: Library, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that the model is given, in order."""
    texts: list[str] = []
    real = library.embedder.encode_documents

    def encode(inputs: Sequence[EmbedInput]) -> np.ndarray:
        texts.extend(one.text for one in inputs)
        return real(inputs)

    monkeypatch.setattr(library.embedder, "encode_documents", encode)
    return texts


def ingest(library: Library, *paths: Path, **options: object) -> mmsearch.IngestReport:
    return ingest_paths(library, paths, jobs=1, **{"ocr": False, **options})  # type: ignore[arg-type]


def found(library: Library, query: str) -> list[tuple[str, str]]:
    """(name and place, snippet) of what is found by words."""
    hits = library.search(query, mode="text", min_relevance=0)
    return [(f"{hit.path.name} {hit.item.place}".strip(), hit.snippet) for hit in hits]


def items(library: Library) -> list[Item]:
    return [item for row in library.catalog.sources() for item in library.catalog.items_of(row.id)]


def captioned(path: Path, caption: str, *, colour: tuple[int, int, int] = samples.RED, **save: object) -> Path:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = caption.encode()
    return samples.photo(path, colour, exif=exif, **save)


# Pictures


def test_a_photo_is_found_by_what_was_written_of_it(library: Library, folder: Path, embedded: list[str]) -> None:
    xmp = packet(
        bag("dc:subject", "tomato") + bag("Iptc4xmpExt:PersonInImage", "Hilde Braun"),
        "xmp:Rating='4' photoshop:City='Lisboa' aux:Lens='EF-S18-55mm'",
    )
    captioned(folder / "IMG_1.jpg", "Möwen über dem Hafen", xmp=xmp)
    captioned(folder / "IMG_2.jpg", "OLYMPUS DIGITAL CAMERA", colour=samples.BLUE)
    ingest(library, folder)
    for query in ("mowen hafen", "tomatoes", "Hilde Braun", "Lisboa"):
        ((name, snippet),) = found(library, query)
        assert name == "IMG_1.jpg" and snippet.startswith("Möwen über dem Hafen tomato Hilde Braun"), query
    assert found(library, "olympus") == []
    assert sorted(embedded) == ["", "Möwen über dem Hafen tomato Hilde Braun Lisboa"]
    one = next(item for item in items(library) if item.path.name == "IMG_1.jpg")
    assert one.text_source == "metadata" and one.description == one.text
    wanted = {
        "caption": "Möwen über dem Hafen",
        "keywords": ["tomato"],
        "people": ["Hilde Braun"],
        "rating": 4,
        "lens": "EF-S18-55mm",
    }
    assert wanted.items() <= one.meta.items() and one.meta["place"] == "Lisboa"


def test_print_that_is_read_later_stands_beside_the_caption(
    library: Library, folder: Path, embedded: list[str]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.ImageDescription] = "Slide about the harbour master"
    printed(*LINES).save(folder / "slide.jpg", exif=exif)
    ingest(library, folder)
    ingest(library, folder, ocr=True)
    (item,) = items(library)
    assert item.text.startswith("Slide about the harbour master\n") and "lighthouse" in item.text
    assert item.text_source == "ocr" and item.description == "Slide about the harbour master"
    assert embedded[-1].startswith("Slide about the harbour master ") and "lighthouse" in embedded[-1]
    assert [name for name, _ in found(library, "harbour master lighthouse")] == ["slide.jpg"]


def test_a_multi_page_tiff_has_its_words_once(library: Library, folder: Path) -> None:
    pages = [Image.new("RGB", (64, 48), colour) for colour in (samples.RED, samples.GREEN)]
    pages[0].save(folder / "fax.tiff", save_all=True, append_images=pages[1:], description="Order of ladders")
    ingest(library, folder)
    assert [name for name, _ in found(library, "ladders")] == ["fax.tiff p.1"]


def test_an_animation_has_its_words_at_its_first_clip(library: Library, folder: Path) -> None:
    frames = [Image.new("RGB", (64, 48), colour) for colour in (samples.RED, samples.GREEN, samples.BLUE)]
    frames[0].save(
        folder / "a.gif", save_all=True, append_images=frames[1:], duration=4000, comment=b"The last steam train"
    )
    ingest(library, folder)
    assert len(items(library)) > 1
    ((name, _),) = found(library, "steam train")
    assert name.startswith("a.gif 00:00:00–")


def test_megabytes_of_metadata_do_not_blow_up_the_library(library: Library, folder: Path) -> None:
    many = bag("dc:subject", *(f"keyword{n} {'x' * 60}" for n in range(30_000)))
    Image.new("RGB", (64, 48), samples.RED).save(folder / "p.webp", xmp=packet(many))
    assert (folder / "p.webp").stat().st_size > 2_000_000
    before = (library.folder / "catalog.sqlite3").stat().st_size
    assert not ingest(library, folder).failures
    (item,) = items(library)
    assert len(item.text) < 20_000 and len(json.dumps(dict(item.meta))) < 20_000
    assert (library.folder / "catalog.sqlite3").stat().st_size - before < 200_000
