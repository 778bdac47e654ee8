"""How fast mmsearch is here, and how much memory it takes: `make bench`, or `python tests/benchmarks/bench.py --help`.

Measures the real command in a process of its own (ingest by kind, cold and warm queries, a rescan of unchanged files), the
stages inside it one by one, and beside them CLIP ViT-B/32 with random weights: what photo search tools commonly run.
Writes everything to a JSON file and prints a table. Other load on the machine falsifies it; the load is written down.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
PARTS = ("ingest", "stages", "query", "rescan", "rival")
SUFFIXES = {"image": {".jpg", ".jpeg", ".png"}, "page": {".pdf"}, "clip": {".mp4"}}
PLURAL = {"image": "photos", "page": "pages", "clip": "clips"}
QUERIES = (
    "slides about revenue", "a dog on a beach", "invoice", "sunset over the sea", "table of results by region",
    "somebody riding a bicycle", "map of a city", "neural network diagram", "children playing football", "screenshot of a terminal",
)  # fmt: skip


@dataclass
class Bench:
    """One run: where it works, how much it does, what it found."""

    work: Path
    model: str
    quick: bool
    counts: Mapping[str, int]
    rescan_files: int
    folder: Path | None
    data: str
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def library(self) -> Path:
        return self.work / "library"

    def material(self, kind: str) -> Path:
        """The folder with this kind's files, made when first asked for."""
        target = self.work / "material" / PLURAL[kind]
        if not target.exists():
            target.mkdir(parents=True)
            if self.folder is not None:
                files = sorted(p for p in self.folder.rglob("*") if p.suffix.lower() in SUFFIXES[kind])
                link_files(files[: self.counts[kind]], target)
            elif self.data == "shared":
                unpack_shared(kind, self.counts[kind], target)
            else:
                copy_demo(kind, self.counts[kind], target)
        return target


# Material


def link_files(files: Sequence[Path], target: Path) -> None:
    for number, file in enumerate(files):
        name = target / f"{number:05}{file.suffix.lower()}"
        try:
            os.link(file, name)
        except OSError:
            shutil.copyfile(file, name)


def copy_demo(kind: str, count: int, target: Path) -> None:
    """`count` or more items of the demo folder's files, over and over; each copy ends in bytes of its own, which every format
    allows, so that none is taken for a known file."""
    from mmsearch.cli.demo_folder import write_demo_folder

    demo = ROOT / "runs" / "bench" / "demo"
    write_demo_folder(demo)
    originals = sorted(p for p in demo.rglob("*") if p.suffix in SUFFIXES[kind] and "drafts" not in p.parts)
    random.Random(0).shuffle(originals)
    items = {"image": 1, "page": 5, "clip": 3}[kind]  # in a file, about
    for number in range(max(1, round(count / items))):
        original = originals[number % len(originals)]
        mark = f"{number:08}".encode()
        if kind == "page":
            mark = b"\n%" + mark + b"\n"
        elif kind == "clip":
            mark = struct.pack(">I4s", 8 + len(mark), b"free") + mark
        (target / f"{number:05}{original.suffix}").write_bytes(original.read_bytes() + mark)


def unpack_shared(kind: str, count: int, target: Path) -> None:
    """Public material that lies beside the checkout, if it does: the first files of its archives."""
    pattern = {"image": "photos/flickr8k-*.tar", "page": "pdf/pdf-*.tar", "clip": "video/video-*.tar"}[kind]
    left = count if kind != "page" else max(1, count // 11)
    for archive in sorted(SHARED.glob(pattern)):
        with tarfile.open(archive) as tar:
            for member in tar:
                if left and member.isfile() and (content := tar.extractfile(member)) is not None:
                    (target / Path(member.name).name).write_bytes(content.read())
                    left -= 1


# Measuring


class TreeMemory:
    """Samples the memory of a process and everything below it while the `with` block runs."""

    def __init__(self, pid: int, interval_s: float = 0.1) -> None:
        self.process, self.interval_s = psutil.Process(pid), interval_s
        self.peak_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._stop.wait(self.interval_s):
            total = 0
            try:
                for process in (self.process, *self.process.children(recursive=True)):
                    try:
                        total += process.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
            except psutil.NoSuchProcess:
                return
            self.peak_bytes = max(self.peak_bytes, total)

    def __enter__(self) -> TreeMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def seconds() -> Iterator[Callable[[], float]]:
    """`with seconds() as took: …`; `took()` gives the time since then."""
    began = time.perf_counter()
    yield lambda: time.perf_counter() - began


def command(bench: Bench, *arguments: str | Path, library: Path | None = None) -> list[str]:
    head = [sys.executable, "-m", "mmsearch"]
    return [*head, *map(str, arguments), "--library", str(library or bench.library)]


def run(arguments: Sequence[str], *, ok: Sequence[int] = (0, 1)) -> tuple[str, float, int]:
    """stdout, seconds and peak bytes of a command; its failure ends the benchmark."""
    with (
        seconds() as took,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        with TreeMemory(process.pid) as memory:
            stdout, stderr = process.communicate()
        elapsed = took()
    if process.returncode not in ok:
        raise SystemExit(f"{' '.join(arguments)}\nended with {process.returncode}:\n{stderr[-2000:]}")
    return stdout, elapsed, memory.peak_bytes


def percentiles(samples_s: Sequence[float]) -> dict[str, float]:
    ms = np.array(samples_s) * 1000
    return {"p50_ms": round(float(np.percentile(ms, 50)), 1), "p95_ms": round(float(np.percentile(ms, 95)), 1)}


# The parts


def measure_ingest(bench: Bench) -> None:
    """`mmsearch ingest` per kind, end to end: its own start, scan, decode, embed, save, snapshot."""
    shutil.rmtree(bench.library, ignore_errors=True)
    rows = {}
    for kind, plural in PLURAL.items():
        folder = bench.material(kind)
        stdout, wall_s, peak = run(command(bench, "ingest", folder, "--json", "--model", bench.model), ok=(0, 4))
        report = json.loads(stdout.splitlines()[-1])
        items = report["items"].get(kind, 0)
        rows[plural] = {
            "items": items,
            "wall_s": round(wall_s, 2),
            "per_s": round(items / wall_s, 1),
            "per_s_without_start": round(items / max(report["seconds"], 1e-9), 1),
            "failures": len(report["failures"]),
            "seconds_by_stage": report["seconds_by_stage"],
            "peak_memory_mb": round(peak / 1e6),
        }
    bench.results["ingest"] = rows


def measure_stages(bench: Bench) -> None:
    """Each stage alone over a sample: decode in one process, the model as ingestion calls it, saving."""
    import mmsearch
    from ingest.readers import read_items
    from ingest.scan import hash_file
    from mmsearch import prompts
    from mmsearch.embedders import load_embedder

    embedder = load_embedder(bench.model)
    rows: dict[str, Any] = {}
    for kind, plural in PLURAL.items():
        limit = {"image": 64, "page": 32, "clip": 16}[kind] // (2 if bench.quick else 1)
        drafts: list[Any] = []
        with seconds() as took:
            for path in sorted(bench.material(kind).iterdir()):
                source = hash_file(path)
                if source is not None:
                    drafts.extend(read_items(source, embedder.max_pixels))
                if len(drafts) >= limit:
                    break
            decode_s = took()
        inputs = [prompts.document_input(draft, with_text=embedder.page_text) for draft in drafts]
        embedder.encode_documents(inputs[:4])
        with seconds() as took:
            vectors = embedder.encode_documents(inputs)
            encode_s = took()
        row = {
            "items": len(drafts),
            "decode_ms": 1000 * decode_s / len(drafts),
            "encode_ms": 1000 * encode_s / len(drafts),
        }
        row |= model_stages(embedder, inputs, bench.results.setdefault("peak_gflops", peak_gflops()))
        with (
            tempfile.TemporaryDirectory(dir=bench.work) as scratch,
            mmsearch.open(scratch, create=True, model="toy") as library,
        ):
            catalog = library.catalog
            catalog.models.register(embedder.model_key, embedder.dim)
            ids = {draft.source.path: 0 for draft in drafts}
            for draft in drafts:
                ids[draft.source.path] = ids[draft.source.path] or catalog.sources.begin(
                    draft.source, model_key=embedder.model_key
                )
            with seconds() as took:
                catalog.items.save_batch(
                    [(ids[d.source.path], d, vector, None) for d, vector in zip(drafts, vectors, strict=True)],
                    embedder.model_key,
                )
                row["save_ms"] = 1000 * took() / len(drafts)
        rows[plural] = {name: round(value, 2) if isinstance(value, float) else value for name, value in row.items()}
    bench.results["stages"] = rows


def model_stages(embedder: Any, inputs: Sequence[Any], peaks: Mapping[str, float]) -> dict[str, Any]:
    """Preprocessing and forward pass apart, and the share of the machine's matrix peak; {} for a model without either."""
    if not hasattr(embedder, "embed_prompts"):
        return {}
    import torch

    from mmsearch.embedders.forward.batching import batches_by_cost, single_core_threads
    from mmsearch.embedders.forward.packed import POSITIONS_PER_BATCH
    from mmsearch.embedders.forward.qwen2vl_inputs import PATCH, first_tokens
    from mmsearch.prompts import final_prompt

    texts = [first_tokens(embedder.tokenizer, i.text, embedder.page_text_tokens) if i.text else "" for i in inputs]
    final = [
        final_prompt(i.instruction, text, image_count=0 if i.is_video else len(i.images), is_video=i.is_video)
        for i, text in zip(inputs, texts, strict=True)
    ]
    costs = [(sum(im.width * im.height for im in i.images) // PATCH**2, 64) for i in inputs]
    batches = []
    with seconds() as took:
        for group in batches_by_cost(costs, POSITIONS_PER_BATCH["small"]):
            chosen = [inputs[n] for n in group]
            budgets = [embedder.max_pixels[i.kind] for i in chosen]
            batches.append(
                embedder.prepare(
                    [final[n] for n in group], [list(i.images) for i in chosen], [i.is_video for i in chosen], budgets
                )
            )
        prepare_s = took()
    flops = sum(model_flops(embedder._config, batch.grids, batch.lengths) for batch in batches)

    def forward(batch: Any) -> None:
        with torch.inference_mode():
            embedder.forward(batch).cpu()

    forward(batches[-1])
    if embedder.device == "cpu":
        with seconds() as took, single_core_threads(torch.get_num_threads()) as pool:
            list(pool.map(forward, batches))
            forward_s = took()
    else:
        with seconds() as took:
            for batch in batches:
                forward(batch)
            forward_s = took()
    dtype = str(next(iter(embedder.model.parameters())).dtype).removeprefix("torch.")
    gflops = flops / forward_s / 1e9
    return {
        "preprocess_ms": 1000 * prepare_s / len(inputs),
        "embed_ms": 1000 * forward_s / len(inputs),
        "gflop_per_item": flops / len(inputs) / 1e9,
        "dtype": dtype,
        "gflops": gflops,
        "share_of_peak": gflops / peaks[dtype] if dtype in peaks else float("nan"),
    }


def model_flops(config: Mapping[str, Any], grids: Sequence[tuple[int, int, int]], lengths: Sequence[int]) -> int:
    """Floating point operations (two per multiply-add) of the matrix products that Qwen2-VL needs for a batch.

    What only one token per prompt needs in the last layer is counted once per prompt; causal attention is counted as the half
    that is used. Norms, activations and rotations are left out (about one percent).

    Args:
        config: a checkpoint's `config.json`. grids: (frame pairs, patch rows, patch columns) per visual. lengths: tokens per prompt.
    """
    vision = config["vision_config"]
    text = config.get("text_config", config)
    width, hidden = vision["embed_dim"], text["hidden_size"]
    mlp = round(width * vision["mlp_ratio"])
    heads = text["num_attention_heads"]
    key_values = hidden // heads * (text.get("num_key_value_heads") or heads)
    layers, inner = text["num_hidden_layers"], text["intermediate_size"]
    merge = vision.get("spatial_merge_size", 2) ** 2
    patch_values = 3 * vision.get("temporal_patch_size", 2) * vision.get("patch_size", 14) ** 2

    patches = sum(t * h * w for t, h, w in grids)
    multiply_adds = patches * patch_values * width
    multiply_adds += vision["depth"] * patches * (4 * width * width + 2 * width * mlp)
    multiply_adds += vision["depth"] * sum(t * 2 * (h * w) ** 2 * width for t, h, w in grids)
    multiply_adds += patches // merge * ((merge * width) ** 2 + merge * width * hidden)

    tokens, rows = sum(lengths), len(lengths)
    per_query, per_key = 2 * hidden * hidden + 3 * hidden * inner, 2 * hidden * key_values
    multiply_adds += (layers - 1) * tokens * (per_query + per_key) + tokens * per_key + rows * per_query
    multiply_adds += (layers - 1) * sum(n * (n + 1) * hidden for n in lengths) + sum(2 * n * hidden for n in lengths)
    return 2 * multiply_adds


def peak_gflops(size: int = 2048, repeats: int = 5) -> dict[str, float]:
    """The best rate of a square matrix product, by dtype that the CPU (or the GPU, if there is one) computes natively."""
    import torch

    from mmsearch.embedders.checkpoints.device import default_device, default_dtype

    device = default_device()
    dtypes = [torch.float32] + ([torch.bfloat16] if default_dtype(device) is torch.bfloat16 else [])
    peaks = {}
    for dtype in dtypes:
        a = torch.randn(size, size, device=device).to(dtype)
        b = torch.randn(size, size, device=device).to(dtype)
        best = float("inf")
        for _ in range(repeats + 1):
            with seconds() as took:
                result = a @ b
                if device != "cpu":
                    torch.cuda.synchronize()
                best = min(best, took())
            del result
        peaks[str(dtype).removeprefix("torch.")] = round(2 * size**3 / best / 1e9, 1)
    return peaks


def measure_query(bench: Bench) -> None:
    """A query from a cold start, and many in one process: through `--queries`, and from Python."""
    import mmsearch

    if not bench.library.exists():
        measure_ingest(bench)
    repeats = 2 if bench.quick else 5
    cold = [run(command(bench, "query", QUERIES[n])) for n in range(repeats)]
    wanted = [f"{words} {number}" for number in range(2 if bench.quick else 10) for words in QUERIES]

    warm: list[float] = []
    arguments = command(bench, "query", "--queries", "-")
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin and process.stdout
        for words in ["warm up", "once more", *wanted]:
            with seconds() as took:
                process.stdin.write(words + "\n")
                process.stdin.flush()
                if not process.stdout.readline():
                    raise SystemExit("mmsearch query --queries - ended early")
                warm.append(took())
        process.stdin.close()

    inside = []
    with mmsearch.open(bench.library, read_only=True) as library:
        library.search("warm up")
        for words in wanted:
            with seconds() as took:
                library.search(words, k=10)
                inside.append(took())
        items = sum(library.catalog.items.counts().values())
    bench.results["query"] = {
        "items": items,
        "cold_s": round(statistics.median(s for _, s, _ in cold), 2),
        "cold_peak_memory_mb": round(max(peak for _, _, peak in cold) / 1e6),
        "queries": percentiles(warm[2:]),
        "python": percentiles(inside),
    }


def measure_rescan(bench: Bench) -> None:
    """`mmsearch ingest` over files that it knows: tiny pictures, indexed with the toy model (no model is loaded for a rescan)."""
    from PIL import Image

    folder, library = bench.work / "many", bench.work / "many-library"
    rng = np.random.default_rng(0)
    for number in range(bench.rescan_files):
        place = folder / f"{number // 500:03}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(place / f"{number:05}.png")
    _, first_s, _ = run(command(bench, "ingest", folder, "--model", "toy", library=library))
    again = [run(command(bench, "ingest", folder, "--json", library=library)) for _ in range(1 if bench.quick else 3)]
    report = json.loads(again[-1][0].splitlines()[-1])
    if report["unchanged"] != bench.rescan_files:
        raise SystemExit(f"the rescan found {report['unchanged']} unchanged files, not {bench.rescan_files}")
    bench.results["rescan"] = {
        "files": bench.rescan_files,
        "first_s": round(first_s, 1),
        "unchanged_s": round(statistics.median(s for _, s, _ in again), 2),
        "unchanged_s_without_start": round(report["seconds"], 2),
    }


def measure_rival(bench: Bench) -> None:
    """CLIP ViT-B/32 in float32 with random weights, 16 photos at a time: the model alone, and with decoding and resizing."""
    import torch
    from PIL import Image
    from transformers import CLIPVisionConfig, CLIPVisionModel

    size, batch_size = 224, 16
    config = CLIPVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=32,
        image_size=size,
    )
    model = CLIPVisionModel(config).eval()
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    deviation = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

    def load(path: Path) -> torch.Tensor:
        with Image.open(path) as image:
            image.draft("RGB", (size, size))
            picture = image.convert("RGB")
        scale = size / min(picture.size)
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (picture.width - size) // 2, (picture.height - size) // 2
        pixels = np.asarray(picture.crop((left, top, left + size, top + size)), np.float32) / 255
        return torch.from_numpy((pixels - mean) / deviation).permute(2, 0, 1)

    photos = sorted(bench.material("image").iterdir())[: 64 if bench.quick else 320]
    with torch.inference_mode():
        noise = torch.randn(batch_size, 3, size, size)
        model(noise)
        rounds = 4 if bench.quick else 20
        with seconds() as took:
            for _ in range(rounds):
                model(noise)
            model_s = took() / (rounds * batch_size)
        with seconds() as took:
            for at in range(0, len(photos), batch_size):
                model(torch.stack([load(path) for path in photos[at : at + batch_size]]))
            serial_s = took() / len(photos)
        with seconds() as took, ThreadPoolExecutor(1) as ahead:
            groups = [photos[at : at + batch_size] for at in range(0, len(photos), batch_size)]
            for batch in ahead.map(lambda group: torch.stack([load(path) for path in group]), groups):
                model(batch)
            ahead_s = took() / len(photos)
    bench.results["rival"] = {
        "name": "CLIP ViT-B/32, float32, random weights",
        "model_per_s": round(1 / model_s, 1),
        "per_s": round(1 / serial_s, 1),
        "per_s_decoding_ahead": round(1 / ahead_s, 1),
    }


MEASURES: Mapping[str, Callable[[Bench], None]] = {
    "ingest": measure_ingest, "stages": measure_stages, "query": measure_query, "rescan": measure_rescan, "rival": measure_rival,
}  # fmt: skip


# Output


def machine() -> dict[str, Any]:
    import torch

    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        name = next(
            (
                line.split(":", 1)[1].strip()
                for line in cpuinfo.read_text().splitlines()
                if line.startswith("model name")
            ),
            name,
        )
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_before": [round(value, 2) for value in psutil.getloadavg()],
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def table(results: Mapping[str, Any]) -> list[str]:
    """Lines for people; the JSON has it all."""
    lines = []
    host = results["machine"]
    lines.append(
        f"{host['cpu']}, {host['cores']} cores, load {host['load_before'][0]} before the start; model {results['model']}"
    )
    for plural, row in results.get("ingest", {}).items():
        lines.append(
            f"ingest {plural:8}{row['per_s']:8.1f} /s end to end ({row['per_s_without_start']:.1f} without start-up), "
            f"{row['items']} in {row['wall_s']:.1f} s, {row['peak_memory_mb']:,} MB at most, {row['failures']} failed"
        )
    for plural, row in results.get("stages", {}).items():
        cells = [
            f"{name} {row[f'{name}_ms']:.1f}"
            for name in ("decode", "preprocess", "embed", "encode", "save")
            if f"{name}_ms" in row
        ]
        share = (
            f", {row['gflops']:.0f} GFLOPS = {100 * row['share_of_peak']:.0f} % of {row['dtype']} peak"
            if "gflops" in row
            else ""
        )
        lines.append(f"stages {plural:8} ms an item: {', '.join(cells)}{share}")
    if (row := results.get("query")) is not None:
        lines.append(
            f"query  cold    {row['cold_s']:8.2f} s, {row['cold_peak_memory_mb']:,} MB, {row['items']:,} items"
        )
        for name, label in (("queries", "--queries"), ("python", "Python")):
            lines.append(
                f"query  warm    {row[name]['p50_ms']:8.1f} ms median, {row[name]['p95_ms']:.1f} ms p95 ({label})"
            )
    if (row := results.get("rescan")) is not None:
        lines.append(f"rescan         {row['unchanged_s']:8.2f} s for {row['files']:,} unchanged files")
    if (row := results.get("rival")) is not None:
        lines.append(
            f"rival  photos  {row['per_s']:8.1f} /s, model alone {row['model_per_s']:.1f} /s, decoding ahead {row['per_s_decoding_ahead']:.1f} /s ({row['name']})"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", default=",".join(PARTS), help=f"what to measure [default: all of {', '.join(PARTS)}]"
    )
    parser.add_argument("--model", default="mini", help="checkpoint to measure [default: %(default)s]")
    parser.add_argument("--folder", type=Path, help="take photos (.jpg, .png), PDFs and .mp4 files from here")
    parser.add_argument(
        "--data", choices=("demo", "shared"), default="shared" if SHARED.exists() else "demo",
        help="without --folder: the demo's files over and over, or the public material in ../shared/data [default: %(default)s]",
    )  # fmt: skip
    parser.add_argument("--photos", type=int, help="how many, at most [default: 400, quick 48]")
    parser.add_argument("--pages", type=int, help="about how many [default: 200, quick 30]")
    parser.add_argument("--clips", type=int, help="about how many [default: 100, quick 9]")
    parser.add_argument("--rescan-files", type=int, help="[default: 10000, quick 500]")
    parser.add_argument("--quick", action="store_true", help="little of everything: whether it runs, not how fast")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "runs" / "bench" / "bench.json", help="[default: %(default)s]"
    )
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; known: {', '.join(PARTS)}")
    defaults = (48, 30, 9, 500) if options.quick else (400, 200, 100, 10_000)
    chosen = (options.photos, options.pages, options.clips, options.rescan_files)
    photos, pages, clips, rescan_files = (d if c is None else c for c, d in zip(chosen, defaults, strict=True))

    options.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mmsearch-bench-") as work:
        counts = {"image": photos, "page": pages, "clip": clips}
        bench = Bench(Path(work), options.model, options.quick, counts, rescan_files, options.folder, options.data)
        bench.results |= {"machine": machine(), "model": options.model, "quick": options.quick}
        bench.results["material"] = str(options.folder) if options.folder else options.data
        for part in parts:
            print(f"measuring: {part}", file=sys.stderr, flush=True)
            MEASURES[part](bench)
    draft = options.output.with_suffix(".tmp")
    draft.write_text(json.dumps(bench.results, indent=2) + "\n", encoding="utf-8")
    draft.replace(options.output)
    print(*table(bench.results), sep="\n")
    print(f"all of it: {options.output}", file=sys.stderr)
    return bench.results


if __name__ == "__main__":
    main()
