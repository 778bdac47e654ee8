"""Pictures of the library's items, decoded once more and kept as files of our own while adapting."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from ingest.decode.again import decoded
from mmsearch.disk.replace import replace_file
from mmsearch.embedders import Embedder
from mmsearch.items import Item
from mmsearch.library import Library


class Pictures:
    """Items' pictures in a folder: `<id>.png`, or `<id>/<frame>.png` of a clip; lossless, as the model is given them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, item: Item | int, *, is_clip: bool) -> Path:
        """Of a page or photo its file, of a clip its folder of frames."""
        number = item if isinstance(item, int) else item.id
        return self.folder / (str(number) if is_clip else f"{number}.png")

    def has(self, item: Item) -> bool:
        return self.path(item, is_clip=item.kind == "clip").exists()

    def images(self, item: Item) -> tuple[Image.Image, ...]:
        """RGB, decoded."""
        path = self.path(item, is_clip=item.kind == "clip")
        files = sorted(path.iterdir()) if item.kind == "clip" else [path]
        return tuple(_opened(file) for file in files)

    def fill(
        self,
        library: Library,
        embedder: Embedder,
        items: Sequence[Item],
        *,
        until: float = math.inf,
        on_item: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep those that are not there yet; each appears whole. `until`: see `ingest.decode.again.decoded`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [item for item in items if not self.has(item)]
        if not missing:
            return
        for item, draft in decoded(library, embedder, missing, until=until):
            path = self.path(item, is_clip=item.kind == "clip")
            with replace_file(path, durable=False) as temporary:
                if item.kind == "clip":
                    temporary.mkdir()
                    for number, frame in enumerate(draft.images):
                        frame.save(temporary / f"{number:03}.png", compress_level=1)
                else:
                    draft.images[0].save(temporary, "PNG", compress_level=1)
            on_item()


def _opened(file: Path) -> Image.Image:
    with Image.open(file, formats=("PNG",)) as image:
        return image.convert("RGB")
