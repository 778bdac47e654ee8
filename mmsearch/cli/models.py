"""`mmsearch models …`: which models there are, which are here, and which one answers queries."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.ingesting import ingested
from mmsearch.cli.shared import (
    FAULT,
    INTERRUPTED,
    OK,
    SOME_FAILED,
    DeviceOption,
    FamilyOption,
    JsonOption,
    LibraryOption,
    complete_models,
    named_model,
    note,
    opened,
)
from mmsearch.errors import EmbedderError, LibraryMissing

if TYPE_CHECKING:
    from mmsearch.embedders import Embedder
    from mmsearch.embedders.checkpoints.checkpoint import Checkpoint
    from mmsearch.library import Library

app = typer.Typer(rich_markup_mode=None, help="List, fetch, compare and switch models.")

NameArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="mini, a name on the hub (owner/name), or a folder.",
        show_default=False,
        autocompletion=complete_models,
    ),
]
EXAMPLE_QUERIES = 50
BYTES_PER_NUMBER = 2 + 4
"""Of a stored vector: float16 in the catalog, float32 in the store."""
OPENED_BY_ITSELF_BYTES = 500_000_000
"""`models info` loads models up to this size without being asked."""


@app.callback(invoke_without_command=True)
def models_command(context: typer.Context, library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """List the models that mmsearch knows, where each stands, and which one answers queries.

    mmsearch is offline: only `mmsearch models pull` asks the network.
    """
    if context.invoked_subcommand != "pull":
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if context.invoked_subcommand is None:
        list_command(library, as_json)


# ---------------------------------------------------------------- list


@app.command("list")
def list_command(library: LibraryOption = None, as_json: JsonOption = False) -> None:
    """List every known model. Each with its state, and the models that have vectors in the library."""
    from mmsearch.cli.terminal import width_of
    from mmsearch.words import to_json

    rows = _rows(_generations(library))
    if as_json:
        print(to_json(rows, indent=2))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        print(_line(row, width, width_of(sys.stdout)))
    note("mmsearch is offline; only `mmsearch models pull NAME` asks the network")


def _generations(folder: Path | None) -> list[dict[str, Any]]:
    """The models that have vectors in the library: key, name, how many items; [] where there is no library."""
    try:
        with opened(folder) as found:
            active = found.catalog.models.active_key()
            total = sum(found.item_counts().values())
            return [
                {
                    "model_key": key,
                    "name": found.catalog.models.name(key) or key,
                    "dim": dim,
                    "active": key == active,
                    "items": sum(found.catalog.counts(key)["vectors"].values()),
                    "of": total,
                }
                for key, dim in found.catalog.models.dims().items()
            ]
    except LibraryMissing:
        return []


def _rows(generations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A record per known model, then one per other model that the library has vectors of."""
    from mmsearch.embedders.inventory import download_bytes, standing
    from mmsearch.embedders.published.known_models import KNOWN, known_model

    rows: list[dict[str, Any]] = []
    for known in KNOWN:
        here = standing(known.name)
        rows.append(
            {
                "name": known.name,
                "state": here.state,
                "why": here.why,
                "summary": known.summary,
                "family": known.family,
                "dim": known.dim,
                "parameters": known.parameters,
                "licence": known.licence,
                "kinds": list(known.modalities),
                "multi_vector": known.is_multi_vector,
                "backbone": known.is_backbone,
                "download_bytes": None if known.why_not else download_bytes(known),
                "paper": known.paper,
                "source": known.source,
                "folder": _folder(here.checkpoint),
                "generations": [],
            }
        )
    by_name = {row["name"]: row for row in rows}
    for generation in generations:
        name = generation["name"]
        published = known_model(name)
        row = by_name.get(published.name if published else name)
        if row is None:
            row = by_name[name] = _unpublished(name, generation["dim"])
            rows.append(row)
        row["generations"].append({field: value for field, value in generation.items() if field != "name"})
    return rows


def _unpublished(name: str, dim: int) -> dict[str, Any]:
    """The record of a folder of one's own, of a hub name that is not known, or of the toy."""
    from mmsearch.embedders.inventory import Standing, standing

    here = Standing("shipped", family="toy") if name == "toy" else standing(name)
    return {
        "name": name,
        "state": here.state,
        "why": here.why,
        "summary": "no model: a hash of colours and words, for tests" if name == "toy" else "",
        "family": here.family,
        "dim": dim,
        "folder": _folder(here.checkpoint),
        "generations": [],
    }


def _folder(checkpoint: Checkpoint | None) -> str | None:
    return str(checkpoint.adapter or checkpoint.base) if checkpoint is not None else None


def _line(row: dict[str, Any], width: int, columns: int = 0) -> str:
    """`* mini  shipped  384 dim  23M  answers queries (5 items)`; what does not fit into `columns` (0: any) in further lines below."""
    from mmsearch.words import printable, size

    is_active = any(generation["active"] for generation in row["generations"])
    facts = [
        f"{'*' if is_active else ' '} {printable(row['name']):<{width}}",
        f"{row['state']:<10}",
        f"{row['dim'] or '?':>4} dim{'/token' if row.get('multi_vector') else ''}",
    ]
    if row.get("parameters"):
        facts.append(_count(row["parameters"]))
    facts += [_generation_words(generation) for generation in row["generations"]]
    if row["state"] == "not here":
        about = f" about {size(row['download_bytes'])}" if row.get("download_bytes") else " it"
        facts.append(f"pull fetches{about}")
    if row["state"] in ("cannot run", "incomplete"):
        facts.append(printable(row["why"]))
    elif row.get("backbone"):
        facts.append("a backbone: embeds well only once trained")
    lines = [facts[0]]
    for fact in facts[1:]:
        if not columns or len(lines[-1]) + 2 + len(fact) <= columns:
            lines[-1] += f"  {fact}"
        else:
            lines += textwrap.wrap(fact, max(columns, 20), initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(line.rstrip() for line in lines)


def _generation_words(generation: dict[str, Any]) -> str:
    done = f"{generation['items']:,}" if generation["items"] >= generation["of"] else _share(generation)
    return f"{'answers queries' if generation['active'] else 'has vectors'} ({done} items, {generation['model_key']})"


def _share(generation: dict[str, Any]) -> str:
    return f"{generation['items']:,} of {generation['of']:,}"


def _count(parameters: int) -> str:
    """ "2.2B", "23M", "52k"."""
    for unit, factor, digits in (("B", 1e9, 1), ("M", 1e6, 0)):
        if parameters >= factor:
            return f"{parameters / factor:.{digits}f}{unit}"
    return f"{parameters / 1e3:.0f}k"


# ---------------------------------------------------------------- info


@app.command("info")
def info_command(
    name: NameArgument,
    open_: Annotated[
        bool, typer.Option("--open", help="Load it whatever its size, to see that it runs and its model key.")
    ] = False,
    library: LibraryOption = None,
    family: FamilyOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is known of one model. Facts, licence, where it lies, what it is given, whether it opens.

    Weights are not loaded but their headers read; small models are loaded too.
    """
    from mmsearch.words import printable, to_json

    facts = _facts(named_model(name, family) or name, _generations(library), device, must_open=open_)
    if as_json:
        print(to_json(facts, indent=2))
        return
    notes = facts.pop("family_notes", None)
    for field, value in facts.items():
        if value not in (None, "", [], {}):
            print(f"{field.replace('_', ' '):<16}{printable(_words(field, value))}")
    if notes:
        print()
        print(notes)


def _words(field: str, value: Any) -> str:
    from mmsearch.words import size

    if field.endswith("_bytes"):
        return size(value)
    if isinstance(value, list):
        return "; ".join(_words(field, one) if not isinstance(one, dict) else _generation_words(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {one:,}" if isinstance(one, int) else f"{key} {one}" for key, one in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _facts(name: str, generations: list[dict[str, Any]], device: str | None, *, must_open: bool) -> dict[str, Any]:
    """What `models info` shows, in its order."""
    from mmsearch.embedders.inventory import (
        download_bytes,
        family_notes,
        has_code,
        size_on_disk,
        standing,
        weights_of,
    )
    from mmsearch.embedders.published.known_models import known_model

    known, here = known_model(name), standing(name)
    if known is None and here.checkpoint is None:
        raise EmbedderError(here.why)
    facts: dict[str, Any] = {"name": known.name if known else name, "state": here.state, "why": here.why}
    if known is not None and here.state == "not here":
        facts["why"] = ""  # `get_it` below says it
    if known is not None:
        facts |= {
            "summary": known.summary,
            "dim": known.dim,
            "parameters": known.parameters,
            "licence": known.licence or "none stated",
            "kinds": list(known.modalities),
            "base": known.base,
            "revision": known.revision,
            "paper": f"arXiv {known.paper}" if known.paper else None,
            "source": known.source,
        }
        if here.state == "not here":
            facts |= {"download_bytes": download_bytes(known), "get_it": f"mmsearch models pull {known.name}"}
    found = here.checkpoint
    if found is not None:
        facts |= {"folder": _folder(found), "base_folder": str(found.base) if found.adapter else None}
        facts["disk_bytes"] = size_on_disk(found)
    family = here.family or (known.family if known else "")
    facts["family"] = family
    if found is not None and here.state in ("shipped", "here"):
        weights = weights_of(found)
        facts |= {
            "weights": f"{_count(weights.parameters)} numbers in {weights.files} safetensors files, {', '.join(weights.dtypes)}",
            **_opened_facts(name, device, is_wanted=must_open or weights.size_bytes <= OPENED_BY_ITSELF_BYTES),
        }
    elif must_open:
        raise EmbedderError(here.why or f"{name} is {here.state}")
    facts["generations"] = [
        one for one in generations if known_model(one["name"]) == known and (known or one["name"] == name)
    ]
    if has_code(family):
        facts["family_notes"] = family_notes(family)
    return facts


def _opened_facts(name: str, device: str | None, *, is_wanted: bool) -> dict[str, Any]:
    """What only the loaded model tells."""
    import time

    from mmsearch.embedders import load_embedder

    if not is_wanted:
        return {"opens": "not tried, the headers of its weights are sound; --open loads it"}
    began = time.monotonic()
    embedder: Embedder = load_embedder(name, device=device)
    return {
        "opens": f"yes, in {time.monotonic() - began:.1f} s on {embedder.device}",
        "model_key": embedder.model_key,
        "dim": embedder.dim,
        "max_pixels": dict(embedder.max_pixels),
        "page_text": "given beside the picture" if embedder.page_text else "not given, pictures only",
        "multi_vector": getattr(embedder, "is_multi_vector", False),
    }


# ---------------------------------------------------------------- pull


@app.command("pull")
def pull_command(
    name: NameArgument,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="REV", help="A commit, tag or branch [default: the one this mmsearch knows, else the newest]."
        ),
    ] = None,
    base: Annotated[
        str | None, typer.Option(metavar="NAME", help="The base of an adapter, over the one that it names itself.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what would be fetched, and stop.")] = False,
) -> None:
    """Fetch a model from the hub. It goes into the local Hugging Face cache: weights as safetensors, never code.

    The only command that asks the network. An adapter's base comes with it. An interrupted download goes on where it
    ended, by the same command.

    \b
    Examples:
      mmsearch models pull VLM2Vec/VLM2Vec-V2.0
      mmsearch models pull google/siglip2-base-patch16-224
    """
    from mmsearch.embedders.download import download, plan_download
    from mmsearch.words import size

    plan = plan_download(name, revision=revision, base=base)
    for repository in plan.repositories:
        licence = f"licence {repository.licence}" if repository.licence else "no licence stated"
        converted = f", {len(repository.pickles)} of them pickles to convert" if repository.pickles else ""
        note(
            f"{repository.name} at {repository.commit[:12]}: {len(repository.files)} files, "
            f"{size(repository.size_bytes)}{converted}; {licence}"
        )
    note(f"to fetch: {size(plan.missing_bytes)} of {size(plan.size_bytes)}")
    if dry_run:
        return
    found = download(plan)
    print(found.adapter or found.base)
    note(f"it is here; use it: mmsearch models use {plan.name}")


# ---------------------------------------------------------------- use, remove


@app.command("use")
def use_command(
    name: NameArgument,
    library: LibraryOption = None,
    family: FamilyOption = None,
    device: DeviceOption = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Decoding processes [default: half of the cores].")] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="Only build its vectors; the old model goes on answering.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Say what it takes, and stop.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object per line, as `mmsearch ingest`.")
    ] = False,
) -> None:
    """Switch the library to another model. Embeds all its files again beside the old vectors, then changes over.

    The old model answers queries until the new one has embedded everything. Interrupting is safe: the same command goes on
    where it ended. No new files are taken in. The old vectors stay, for switching back, until `models remove`.
    """
    from mmsearch.embedders.checkpoints.checkpoint import lasting_name
    from mmsearch.words import count_of, size

    chosen = lasting_name(named_model(name, family) or name)
    with opened(library, model=chosen, device=device) as found:
        key, before = found.embedder.model_key, str(found.model_key)
        if not found.item_counts():
            raise EmbedderError(f"the library is empty: mmsearch ingest FOLDER --model {chosen}")
        code = OK
        if found.catalog.models.sources_to_embed(key):
            items = sum(found.item_counts().values())
            bytes_of_all = size(items * found.embedder.dim * BYTES_PER_NUMBER)
            many = " at least, it gives each item many," if getattr(found.embedder, "is_multi_vector", False) else ""
            note(f"vectors of {count_of(items, 'item')}, {bytes_of_all}{many} beside those of {_called(found, before)}")
            options: dict[str, Any] = {"jobs": jobs, "add_new": False, "change_over": not beside, "dry_run": dry_run}
            code = ingested(found, _places(found), as_json=as_json, **options)
        if dry_run or code in (INTERRUPTED, FAULT):
            raise typer.Exit(code)
        if left := found.catalog.models.sources_to_embed(key):
            note(f"{count_of(left, 'file')} still to embed, so {before} goes on answering; the same command goes on")
            raise typer.Exit(code or SOME_FAILED)
        if beside:
            note(f"the vectors of {chosen} are complete; {_called(found, str(found.model_key))} goes on answering")
            raise typer.Exit(code)
        with found.lock():
            found.catalog.models.activate_if_complete(key)
            found.sync_vectors()
        note(
            f"{chosen} answers queries"
            + (f"; the old vectors stay until: mmsearch models remove {before}" if before != key else "")
        )
        _warn_of_setting(found, chosen)
    raise typer.Exit(code)


def _called(library: Library, model_key: str) -> str:
    return library.catalog.models.name(model_key) or model_key


def _places(library: Library) -> list[Path]:
    """The folders of a library, and its files that lie in none of them."""
    roots = list(library.catalog.sources.roots())
    files = [row.path for row in library.catalog.sources.rows(states=("indexed", "pending"))]
    return [*roots, *(path for path in files if not any(path.is_relative_to(root) for root in roots))]


def _warn_of_setting(library: Library, name: str) -> None:
    """Say so if a setting names another model: queries would then ask for that one."""
    from mmsearch.config import load_settings

    settings = load_settings(library.folder)
    if "model" in settings.model_fields_set and settings.model != name:
        note(f"but the setting `model` (MMSEARCH_MODEL or a config.toml) says {settings.model!r}: take it out")


@app.command("compare")
def compare_command(
    first: Annotated[str, typer.Argument(metavar="A", help="A name or model key of `mmsearch models list`.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="QUERIES.jsonl", help="Judged queries, as `mmsearch eval run` takes them: which one is right?"
        ),
    ] = None,
    library: LibraryOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on the library's own items. Both must have vectors in it. Sizes, speed here, and how far their answers agree.

    With judged queries also which one finds more, with a paired test. Make the second one's vectors with
    `mmsearch models use B --beside`.
    """
    from mmsearch.judgements.agreement import agreement
    from mmsearch.judgements.comparison import compare_runs
    from mmsearch.judgements.queries import read_queries
    from mmsearch.judgements.run import measure_run
    from mmsearch.judgements.tables import comparison_lines
    from mmsearch.library.examples import example_queries
    from mmsearch.words import to_json

    judged = read_queries(queries) if queries is not None else None
    with opened(library, device=device) as found:
        both = [_of_model(found, name) for name in (first, second)]
        texts = [one.query for one in judged or () if one.query] or example_queries(found.catalog, EXAMPLE_QUERIES)
        costs = [_costs(one, texts) for one in both]
        agreed = agreement(both[0], both[1], texts)
        runs = (
            [measure_run(one, judged, name=name) for one, name in zip(both, (first, second), strict=True)]
            if judged
            else []
        )
    comparison = compare_runs(runs[0], runs[1]) if runs else None
    if as_json:
        record = {"models": costs, "agreement": asdict(agreed), "judged": comparison.record() if comparison else None}
        print(to_json(record, indent=2))
        return
    for line in _cost_lines(costs):
        print(line)
    drawn = "judged" if judged else "drawn from titles and names in the library"
    print(
        f"of their first ten hits {agreed.overlap:.0%} are the same, the first hit for {agreed.same_first:.0%} of the queries "
        f"({agreed.queries}, {drawn})"
    )
    for line in comparison_lines(comparison) if comparison else ():
        print(line)


def _of_model(library: Library, name: str) -> Library:
    """The library as one of its models answers it, if that has embedded everything."""
    from mmsearch.embedders.checkpoints.checkpoint import lasting_name
    from mmsearch.errors import CatalogError
    from mmsearch.words import count_of

    chosen = lasting_name(name)
    way_out = f"; make them: mmsearch models use {name} --beside"
    try:
        found = library.of_model(chosen)
    except CatalogError as error:
        raise CatalogError(f"{error}{way_out}") from None
    if left := library.catalog.models.sources_to_embed(str(found.model_key)):
        raise CatalogError(f"{name} has no vectors of {count_of(left, 'file')} yet{way_out}")
    return found


def _costs(library: Library, texts: Sequence[str]) -> dict[str, Any]:
    """What a model takes: its own size, its vectors', and its time here."""
    from ingest.estimate import measure_costs
    from mmsearch.embedders.inventory import size_on_disk, standing, weights_of
    from mmsearch.judgements.agreement import query_seconds

    key = str(library.model_key)
    here = standing(library.model.name).checkpoint
    return {
        "name": library.model.name,
        "model_key": key,
        "dim": library.embedder.dim,
        "parameters": weights_of(here).parameters if here else None,
        "disk_bytes": size_on_disk(here) if here else None,
        "items": sum(library.catalog.counts(key)["vectors"].values()),
        "vector_bytes": library.catalog.vectors.byte_count(key),
        "device": library.embedder.device,
        "document_s": measure_costs(library.embedder, list(library.item_counts())),
        "query_s": query_seconds(library, texts),
    }


def _cost_lines(costs: list[dict[str, Any]]) -> list[str]:
    from mmsearch.words import KIND_NOUNS, printable, size

    rows = {
        "model": [printable(Path(cost["name"]).name) for cost in costs],
        "dimensions": [str(cost["dim"]) for cost in costs],
        "parameters": [_count(cost["parameters"]) if cost["parameters"] else "none" for cost in costs],
        "on disk": [size(cost["disk_bytes"]) if cost["disk_bytes"] else "nothing" for cost in costs],
        "vectors here": [f"{size(cost['vector_bytes'])} of {cost['items']:,} items" for cost in costs],
        "device": [cost["device"] for cost in costs],
        "a query": [f"{1e3 * cost['query_s']:.1f} ms" for cost in costs],
    }
    for kind, noun in KIND_NOUNS.items():
        if any(kind in cost["document_s"] for cost in costs):
            rows[f"a {noun}"] = [f"{1e3 * cost['document_s'].get(kind, float('nan')):.0f} ms" for cost in costs]
    width = max(len(cells[0]) for cells in rows.values())
    return [f"{name:<14}{cells[0]:<{width}}  {cells[1]}" for name, cells in rows.items()]


@app.command("remove")
def remove_command(
    model_key: Annotated[str, typer.Argument(metavar="KEY", help="A model key, as `mmsearch models list` shows it.")],
    library: LibraryOption = None,
) -> None:
    """Delete a model's vectors from the library. Another one must answer queries. The model itself stays."""
    with opened(library) as found:
        found.remove_model(model_key)
    note(f"removed the vectors of {model_key}; they come back with `mmsearch models use`")
