"""MMEB-train: 20 image sets as instruction pairs, and sets of the same layout with hard negatives (B3).

Layout on the hub: `<subset>/<split>-*.parquet` with `qry, qry_image_path, pos_text, pos_image_path, neg_text,
neg_image_path`, and `images_zip/<subset>.zip`, to be unpacked to `images/<subset>/…` as the paths in the rows say.

Source: TIGER-AI-Lab/VLM2Vec@6e1e1d4 `src/data/dataset/mmeb_dataset.py`; `mmeb_neg_dataset.py` of branch v2.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmsearch.errors import DatasetError
from mmsearch.prompts import mmeb_training_prompt
from mmsearch.training.datasets import record_fields
from mmsearch.training.datasets.dataset_folders import DatasetFolders
from mmsearch.training.datasets.pairs import Pair, Side
from mmsearch.training.datasets.row_source import RowSource
from mmsearch.training.datasets.rows import Rows, Table

HUB_NAME = "TIGER-Lab/MMEB-train"
SUBSETS = (
    "ImageNet_1K", "N24News", "HatefulMemes", "VOC2007", "SUN397", "OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA",
    "ChartQA", "Visual7W", "VisDial", "CIRR", "VisualNews_t2i", "VisualNews_i2t", "MSCOCO_t2i", "MSCOCO_i2t", "NIGHTS",
    "WebQA", "MSCOCO",
)  # fmt: skip
COLUMNS = ("qry", "qry_image_path", "pos_text", "pos_image_path")
NEGATIVE_COLUMNS = ("neg_text", "neg_image_path")


def open_mmeb(spec: Mapping[str, Any], folders: DatasetFolders) -> RowSource:
    """Fields: `subset_name`; `dataset_name` (TIGER-Lab/MMEB-train; or a folder), `dataset_split` ("original" or
    "diverse_instruction"), `image_dir` (the folder that the rows' picture paths start from; by default the data set's).
    """
    record_fields.check_spec(
        spec, {"subset_name", "dataset_name", "dataset_split", "image_dir"} | record_fields.DECODING, required=("subset_name",)
    )  # fmt: skip
    subset, split = spec["subset_name"], spec.get("dataset_split") or "original"
    hub_name = spec.get("dataset_name") or HUB_NAME
    folder = folders.dataset_folder(
        spec,
        hub_name,
        needed=f"{subset}/{split}-*.parquet",
        patterns=[f"{subset}/{split}-*.parquet", f"images_zip/{subset}.zip", "unzip_file.py"],
    )
    files = sorted((folder / subset).glob(f"{split}-*.parquet"))
    if not files:
        there = sorted(path.name for path in folder.iterdir() if path.is_dir() and any(path.glob("*.parquet")))
        raise DatasetError(
            f"no {subset}/{split}-*.parquet in {folder}; subsets there: {', '.join(there) or 'none'}; "
            f"those of {HUB_NAME}: {', '.join(SUBSETS)}"
        )
    images = folders.local(spec["image_dir"]) if spec.get("image_dir") else folder
    archive = folder / "images_zip" / f"{subset}.zip"
    if archive.is_file() and not (images / "images" / subset).is_dir():
        raise DatasetError(
            f"the pictures of {subset} are still packed: run `python unzip_file.py`, which comes with the data set, in {folder}, "
            f"or unzip {archive} so that {images / 'images' / subset} holds them"
        )
    rows = Table(files, folders.cache_folder(), columns=COLUMNS, optional=NEGATIVE_COLUMNS)
    return Mmeb(spec, rows, images)


class Mmeb(RowSource):
    """Both sides are complete prompts but for the placeholder of a picture; a placeholder without picture stays (WebQA)."""

    def __init__(self, spec: Mapping[str, Any], rows: Rows, images: Path) -> None:
        super().__init__(spec, rows, default_name=spec["subset_name"])
        self.images = images
        self.decoding = record_fields.decoding(spec)

    def read(self, row: dict[str, Any], key: str) -> Pair:
        query = self._side(record_fields.optional_text(row, "qry"), record_fields.optional_text(row, "qry_image_path"))
        target = self._side(
            record_fields.optional_text(row, "pos_text"), record_fields.optional_text(row, "pos_image_path")
        )
        texts, pictures = record_fields.texts(row, "neg_text"), record_fields.texts(row, "neg_image_path")
        if pictures and texts and len(pictures) != len(texts):
            raise DatasetError(f"{len(texts)} neg_text and {len(pictures)} neg_image_path")
        count = max(len(texts), len(pictures))
        texts, pictures = texts or [""] * count, pictures or [""] * count
        filled = [(t, p) for t, p in zip(texts, pictures, strict=True) if t.strip() or p]
        return Pair(query, target, tuple(self._side(t, p) for t, p in filled[: self.hard_negatives]))

    def _side(self, text: str, picture: str) -> Side:
        pictures = (record_fields.file_picture(self.images, picture, self.decoding),) if picture else ()
        return Side(mmeb_training_prompt(text), pictures)
