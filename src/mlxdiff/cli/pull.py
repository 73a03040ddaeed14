"""`mlxdiff pull`: bring a model or a part into the cache, keep a file in the store, and look after both."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import typer

from ..errors import RequestError
from ..part_kinds import FILES, KINDS, MODEL
from ..request import Request
from . import cache, completion, fetching, keeping, known, options, output


def pull(
    model: Annotated[
        str | None,
        typer.Argument(
            help="owner/name[@revision], owner/name/file.safetensors, an address on the hub, or a short name (sd21): a"
            " model, LoRA, VAE, ControlNet, ... Or a LoRA or another part in a .safetensors file on this disk.",
            show_default=False,
            autocompletion=completion.pullable,
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit. Default: main.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            help="Precision of the weights, such as fp16. Default: the files without a variant, if there are any."
        ),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror",
            help="Use the mirror of a model that was removed from the hub, or do not. Default: ask.",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Download existing files again; overwrite in the store.")
    ] = False,
    token: Annotated[
        str | None, typer.Option(help="Access token of the hub, instead of HF_TOKEN.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be downloaded or removed.")] = False,
    set_default: Annotated[
        bool, typer.Option("--set-default", help="Use this model as the default for --model.")
    ] = False,
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Name for the file on this disk in mlxdiff's store.")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help=f"What that file is, where its header does not say: {', '.join(FILES)}.",
            autocompletion=completion.among(FILES),
        ),
    ] = None,
    quantize: Annotated[
        int | None,
        typer.Option("--quantize", help="Also store a copy in 8 or 4 bits, for generate --quantize."),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the models and parts that are here.")] = False,
    list_known: Annotated[
        bool, typer.Option("--list-known", help="List the short names of much used models and parts, such as sd21.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Remove MODEL, or one revision of it.")] = False,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove old revisions and unfinished downloads of all models and parts.")
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read the files of MODEL, or of all models, and compare them with their hashes."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    json: options.Json = False,
) -> None:
    """Download MODEL into the Hugging Face cache; or list, check or clean that cache.

    Downloads only what mlxdiff loads, in one precision, and continues an earlier pull that was stopped. The last line
    is "ready" and the folder or file. A LoRA or another part in a file on this disk is copied into mlxdiff's store.
    """
    if kind is not None and kind not in FILES:
        raise RequestError(f"There is no kind {kind!r}.", f"Choose one of {', '.join(FILES)}.")
    verbs = [name for name, given in _verbs(list_, list_known, remove, prune, verify).items() if given]
    if len(verbs) > 1:
        raise RequestError(f"{' and '.join(verbs)} are different commands.", "Give one of them.")
    if not verbs:
        if model is None:
            raise RequestError("No model is named.", "Name one, or give --list, --prune or --verify.")
        Request(quantize=quantize)  # other bits are refused before anything is fetched
        file = None if revision is not None else keeping.part_in(model, kind)
        if file is not None:
            if set_default or quantize is not None:
                raise RequestError(f"{model} is a part of a model, not a model.", "Leave the option out.")
            keeping.keep(file, kind, name, force=force, dry_run=dry_run, json=json)
            return
        if name is not None or kind is not None:
            given = "--as" if name is not None else "--kind"
            raise RequestError(
                f"{given} is for a LoRA or another part in a file on this disk.",
                "What is on the hub has its own name, and says what it is.",
            )
        if set_default or quantize is not None or not keeping.tell_what_is_here(model, json=json):
            _bring(model, revision, variant, mirror, force, token, dry_run, set_default, quantize, json)
        return
    fetching = {
        "--variant": variant,
        "--mirror": mirror,
        "--token": token,
        "--quantize": quantize,
        "--force": force or None,
        "--set-default": set_default or None,
        "--as": name,
        "--kind": None if verbs[0] == "--remove" else kind,
    }
    unfit = [name for name, value in fetching.items() if value is not None]
    if unfit:
        raise RequestError(f"{unfit[0]} does nothing beside {verbs[0]}.", "Leave one of them out.")
    if model is not None:
        model = hub_name(model, revision)
    match verbs[0]:
        case "--list":
            cache.list_models(model, json=json)
        case "--list-known":
            if model is not None:
                raise RequestError("--list-known is for all short names.", "Name no model, or leave it out.")
            known.list_known(json=json)
        case "--remove":
            if model is None:
                raise RequestError("No model is named.", "Name the one to remove; --list shows them.")
            cache.remove_model(model, kind, dry_run=dry_run, yes=yes, json=json)
        case "--prune":
            if model is not None:
                raise RequestError("--prune is for the whole cache.", f"To remove {model} run: --remove {model}")
            cache.prune_models(dry_run=dry_run, yes=yes, json=json)
        case "--verify":
            cache.verify_models(model, dry_run=dry_run, yes=yes, json=json)


def hub_name(model: str, revision: str | None) -> str:
    """A model of the cache as owner/name[@revision], however it was named."""
    from .. import hub

    model = hub.canonical(model)
    return model if revision is None else f"{model}@{revision}"


def _verbs(list_: bool, list_known: bool, remove: bool, prune: bool, verify: bool) -> dict[str, bool]:
    return {"--list": list_, "--list-known": list_known, "--remove": remove, "--prune": prune, "--verify": verify}


def _bring(
    model: str,
    revision: str | None,
    variant: str | None,
    mirror: bool | None,
    force: bool,
    token: str | None,
    dry_run: bool,
    set_default: bool,
    quantize: int | None,
    json: bool,
) -> None:
    from .. import hub

    if not hub.is_local(model):
        asked, model = model, hub.canonical(model)
        if asked in hub.KNOWN:
            output.note(f"{asked} is {model}.")
    asked = model
    kind: str | None = MODEL
    if revision is None and hub.is_local(model):
        snapshot = hub.resolve(model)
        output.note(f"{model} is {'built in' if model == hub.BUILT_IN else 'on this disk'}: nothing to fetch.")
        files: list[dict[str, Any]] = []
    else:
        removed = None
        try:
            plan = hub.plan(model, revision, variant, token=token, force=force)
        except hub.RemovedError as error:
            removed = error
            if not _take_mirror(error, mirror):
                raise
            gone = hub.parse_reference(model) or hub.HubReference(error.name)
            instead = str(replace(gone, name=error.mirror))
            plan = hub.plan(instead, revision, variant, token=token, force=force)
        files = [
            {"path": file.path, "bytes": file.size, "arrived": file.arrived, "here": file.here} for file in plan.files
        ]
        _refuse_for_parts(asked, plan.kind, set_default, quantize)
        if dry_run:
            if json:
                said = {"model": plan.repository, "revision": plan.commit, "kind": plan.kind}
                output.say_json({**said, "files": files, "ready": False})
            else:
                fetching.show(plan, output.out_console())
            return
        fetching.show(plan, output.err_console())
        snapshot = fetching.fetch(plan, token)
        kind = keeping.kind_of(plan, snapshot)
        if removed is not None:
            hub.set_mirror(removed.name, removed.mirror)
            output.note(f"{removed.name} now stands for {removed.mirror}.")
        model = plan.reference
        _refuse_for_parts(asked, kind, set_default, quantize)
    if set_default and not dry_run:
        hub.set_default_model(model)
        output.note(f"{model} is now the default model.")
    copy = None
    if quantize is not None and not dry_run:
        from .. import quantized

        copy = quantized.store(model, quantize)
        output.note(f"{model} in {quantize} bits: {copy}")
    use = keeping.tell_use(asked, revision, kind)
    if json:
        said: dict[str, Any] = {
            "model": snapshot.reference,
            "revision": snapshot.revision,
            "path": str(snapshot.path),
            "kind": kind,
        }
        if use is not None:
            said["use"] = use
        if copy is not None:
            said["quantized"] = str(copy)
        output.say_json({**said, "files": files, "ready": True})
    else:
        output.say(f"ready {snapshot.path}")


def _refuse_for_parts(asked: str, kind: str | None, set_default: bool, quantize: int | None) -> None:
    """Raises RequestError where what is surely a part is to be used as a model."""

    if kind in KINDS and (set_default or quantize is not None):
        option = "--set-default" if set_default else "--quantize"
        raise RequestError(f"{asked} is {KINDS[kind].article}, not a model.", f"Leave {option} out.")


def _take_mirror(error: Any, mirror: bool | None) -> bool:
    """Whether to take the mirror: as the option says, as was agreed before, or as is answered on a terminal."""
    from .. import hub

    if mirror is not None:
        if mirror:
            output.note(f"{error.name} was removed from the hub: taking the same files from {error.mirror}.")
        return mirror
    if hub.mirror_of(error.name) == error.mirror:
        return True
    question = f"{error.problem} Take the same files from {error.mirror}?"
    return cache.can_ask() and cache.confirmed(question, default=True)
