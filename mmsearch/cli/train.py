"""`mmsearch train …`: recipes, runs, checks, exports, and adapting to one's own library."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmsearch.cli.ingesting import ingested
from mmsearch.cli.shared import (
    SOME_FAILED,
    DeviceOption,
    JsonOption,
    LibraryOption,
    note,
    opened,
)

if TYPE_CHECKING:
    from mmsearch.library import Library

app = typer.Typer(rich_markup_mode=None, help="Train an embedder.")

RecipeOption = Annotated[
    str | None, typer.Option("--recipe", metavar="NAME", help="A recipe of `mmsearch train recipes`, or a YAML file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Change the recipe, as loss.temperature=0.05; again for more."),
]
StepsOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="So many steps in every stage.")]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder of the training data [default: data].")
]
WorkOption = Annotated[
    Path, typer.Option("--work", metavar="DIR", help="What is made from the data once: rendered pages, features, …")
]


@app.callback(invoke_without_command=True)
def train_command(
    context: typer.Context,
    recipe: RecipeOption = None,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of the run [default: runs/<recipe>].")] = None,
    data: DataOption = None,
    steps: StepsOption = None,
    set_: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on where the run's folder ends, or forget what is in it.")
    ] = True,
    from_library: Annotated[
        bool, typer.Option("--from-library", help="Adapt the model to the files of your own library, without labels.")
    ] = False,
    judged: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help='With --from-library: queries and their right answers, a JSON object a line: {"query", "kind"?, "relevant": '
            '[{"path", "page"?, "start_s"?, "end_s"?}]}.',
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="With --from-library: be done after so long, decoding and measuring included [default: 10]."
        ),
    ] = None,
    use: Annotated[
        bool, typer.Option("--use", help="With --from-library: if it is better, embed the library again with it.")
    ] = False,
    work: WorkOption = Path("runs/work"),
    library: LibraryOption = None,
    device: DeviceOption = None,
) -> None:
    """Train an embedder: a recipe in, a checkpoint out.

    Interrupting is safe: the same command goes on from the newest state. On several GPUs: `torchrun --nproc-per-node=8 -m --
    mmsearch train …` (the -- keeps torchrun from reading --run).

    \b
    Examples:
      mmsearch train --recipe mini
      mmsearch train --recipe vlm2vec_v2_qwen2vl_2b --data ~/data --set stages.0.pairs.batch_size_global=256
      mmsearch train export runs/mini --to my-model
      mmsearch train --from-library
    """
    if context.invoked_subcommand is not None:
        return
    _training_speaks()
    if from_library:
        if recipe is not None or data is not None:
            raise typer.BadParameter(
                "--from-library trains the library's own model on its own files: no --recipe, no --data"
            )
        with opened(library, device=device) as found:
            checkpoint = _adapt(found, run, judged, minutes, steps, set_, fresh=not resume)
            if checkpoint is None or not use:
                return
            roots = list(found.catalog.sources.roots())
        with opened(library, model=str(checkpoint), device=device) as found:
            raise typer.Exit(ingested(found, roots, as_json=False))
    if judged is not None or minutes is not None or use:
        raise typer.BadParameter("--judged, --minutes and --use belong to --from-library")
    if recipe is not None and (assembly := _find_assembly(recipe)) is not None:
        if steps is not None:
            raise typer.BadParameter("--steps: the stages of this recipe differ; change one, as --set words.steps=10")
        _assemble(assembly, run, data, work, set_, fresh=not resume)
        return
    from mmsearch.training.train import train

    chosen = _recipe(recipe, run, steps, set_)
    place = run or Path("runs") / Path(recipe or chosen.name).stem
    try:
        folder = train(chosen, place, data=data, work=work, fresh=not resume, device=device)
    except KeyboardInterrupt:
        if _is_first_process():
            note(f"stopped; the state is in {place}, and the same command goes on")
        raise
    if _is_first_process():
        note(f"the checkpoint is in {folder}; try it: mmsearch query --model {folder} …")


def _adapt(
    library: Library,
    run: Path | None,
    judged: Path | None,
    minutes: float | None,
    steps: int | None,
    changes: list[str] | None,
    *,
    fresh: bool,
) -> Path | None:
    """Adapt the model to the library and tell what came of it. Returns the new checkpoint, None where the old one stays."""
    import shlex

    from mmsearch.adapt.run import adapt_to_library
    from mmsearch.training.recipe import parse_changes

    try:
        found = adapt_to_library(
            library,
            run=run,
            judged=judged,
            minutes=minutes,
            steps=steps,
            changes=parse_changes(changes or []),
            fresh=fresh,
            tell=note,
        )
    except KeyboardInterrupt:
        note("stopped; the library is as it was, and the same command goes on")
        raise
    for line in found.lines():
        print(line)
    if found.checkpoint is not None:
        folders = shlex.join(map(str, library.catalog.sources.roots()))
        sys.stdout.flush()
        note(f"use it: mmsearch ingest {folders} --model {shlex.quote(str(found.checkpoint))}")
        note("every file is embedded again beside the old vectors, which answer until that is done")
    return found.checkpoint


def _find_assembly(recipe: str) -> Path | None:
    from mmsearch.training.assembly.settings import find_assembly

    return find_assembly(recipe)


def _assemble(
    file: Path, run: Path | None, data: Path | None, work: Path, changes: list[str] | None, *, fresh: bool
) -> None:
    """Run a recipe that assembles a checkpoint from open parts."""
    import shutil

    from mmsearch.training.assembly.assemble import assemble
    from mmsearch.training.assembly.settings import load_assembly
    from mmsearch.training.recipe import parse_changes

    chosen = load_assembly(file, parse_changes(changes or []))
    place = run or Path("runs") / file.stem
    if fresh:
        shutil.rmtree(place, ignore_errors=True)
    try:
        folder = assemble(chosen, place, data=data, work=work)
    except KeyboardInterrupt:
        note(f"stopped; finished stages are in {place}, and the same command goes on with the next")
        raise
    note(f"the checkpoint is in {folder}; try it: mmsearch query --model {folder} …")


def _recipe(name: str | None, run: Path | None, steps: int | None, changes: list[str] | None) -> Any:
    """The recipe that the options of `mmsearch train` describe; that of the run's folder if none is named."""
    from mmsearch.training.recipe import change_recipe, load_recipe, parse_changes, recipe_names

    if name is None:
        if run is None or not (run / "recipe.yaml").is_file():
            from mmsearch.training.assembly.settings import assembly_names

            names = ", ".join(sorted([*assembly_names(), *recipe_names()]))
            raise typer.BadParameter(f"--recipe is missing; there are {names}, or give a YAML file")
        name = str(run / "recipe.yaml")
    chosen = load_recipe(name)
    fields = {f"stages.{number}.steps": steps for number in range(len(chosen.stages))} if steps else {}
    return change_recipe(chosen, fields | parse_changes(changes or []))


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _training_speaks() -> None:
    """Progress is told on stderr, by the first process alone."""
    if _is_first_process():
        logging.getLogger("mmsearch.training").setLevel(min(logging.INFO, logging.getLogger().level))


@app.command("recipes")
def train_recipes_command(as_json: JsonOption = False) -> None:
    """List the recipes that come with mmsearch."""
    from mmsearch.training.assembly.settings import RECIPES, load_assembly
    from mmsearch.training.recipe import load_recipe, recipe_names
    from mmsearch.words import to_json

    rows = []
    for name in recipe_names():
        found = load_recipe(name)
        start = found.model.checkpoint or "a new model"
        steps = sum(stage.steps for stage in found.stages)
        rows.append({"recipe": name, "start": start, "steps": steps, "sources": len(found.sources)})
    for file in sorted(RECIPES.glob("*.yaml")):
        parts = load_assembly(file)
        steps = parts.words.steps + parts.trunk.steps + parts.seeing.steps + parts.join.steps
        sources = len(parts.words.weights) + len(parts.seeing.shares)
        rows.append({"recipe": file.stem, "start": "open pretrained parts", "steps": steps, "sources": sources})
    if as_json:
        print(to_json(rows, indent=2))
        return
    for row in rows:
        print(f"{row['recipe']:<24}{row['start']}, {row['steps']:,} steps, {row['sources']} sources of pairs")


@app.command("check")
def train_check_command(
    recipe: RecipeOption = None,
    run: Annotated[Path | None, typer.Option(metavar="DIR", help="Take the recipe of this run.")] = None,
    data: DataOption = None,
    steps: StepsOption = None,
    set_: SetOption = None,
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Records that are read of every source.")] = 32,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Estimate for so many processes.")] = 1,
    work: WorkOption = Path("runs/work"),
    device: DeviceOption = None,
) -> None:
    """Look at a recipe's data and at what a run needs. Trains nothing. Exit code 4 if a source cannot be used."""
    from mmsearch.training.run.preflight import check_sources, estimate
    from mmsearch.words import duration, printable, size

    chosen = _recipe(recipe, run, steps, set_)
    checks = []
    for found in check_sources(chosen, data, work, sample=sample):
        checks.append(found)
        if found.problem:
            print(f"{found.name}: {printable(found.problem)}")
            continue
        bad = f", {found.bad} of {found.sampled} read are bad: {printable(found.first_reason)}" if found.bad else ""
        cost = f", {found.patches:,.0f} patches and {found.tokens:,.0f} tokens a pair" if found.tokens else ""
        print(f"{found.name}: {found.records:,} records{cost}{bad}")
    needs = estimate(chosen, checks, processes=processes, device=device)
    print(f"model: {needs.parameters / 1e6:,.1f}M parameters, {needs.trained / 1e6:,.1f}M of them trained")
    print(
        f"memory of a process, roughly: {size(needs.weights_bytes)} for weights and optimizer, "
        f"at most {size(needs.activations_bytes)} for a chunk of {chosen.chunk_positions:,} positions"
    )
    if needs.seconds_per_step is not None:
        total = needs.seconds_per_step * sum(stage.steps for stage in chosen.stages if stage.pairs)
        print(
            f"time on this machine, roughly, at best: {needs.seconds_per_step:.2g} s a step, {duration(total)} in all"
        )
    if any(found.problem or found.bad == found.sampled for found in checks):
        raise typer.Exit(SOME_FAILED)


@app.command("export")
def train_export_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to [default: RUN/checkpoint].")] = None,
    state: Annotated[
        str, typer.Option(metavar="WHICH", help="newest, or the step of a state that is kept, as 500 or 1-500.")
    ] = "newest",
    ema: Annotated[
        bool, typer.Option("--ema/--no-ema", help="The moving average of the weights where the run keeps one, or not.")
    ] = True,
    dtype: Annotated[str, typer.Option(metavar="TYPE", help="bfloat16, float16 or float32.")] = "bfloat16",
) -> None:
    """Write a run's model as a folder. mmsearch and transformers open it: adapter merged, with a model card."""
    from mmsearch.training.run.export import DTYPES, export_run

    if dtype not in DTYPES:
        raise typer.BadParameter(f"--dtype {dtype}: one of {', '.join(DTYPES)}")
    folder = export_run(run, to, state=state, average=ema, dtype=dtype)
    note(f"wrote {folder}")
