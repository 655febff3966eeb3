"""The command line: ``push``, ``pull``, ``inspect`` and ``export``. Every error is one line and exit status 2."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gmje_hub.errors import HubError, ModelNotFoundError

__all__ = ["app", "main"]

app = typer.Typer(
    name="gmje_hub",
    help="Publish, fetch and inspect models; nothing is ever unpickled.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

# Exit status after Ctrl-C, the same as in shells.
_INTERRUPTED = 130
Revision = Annotated[str | None, typer.Option(help="Branch, tag or full commit hash.")]
Token = Annotated[str | None, typer.Option(help="Access token.  [default: HF_TOKEN, or the stored one]")]
CacheDir = Annotated[Path | None, typer.Option(help="Folder of downloads.  [default: HF_HUB_CACHE]")]


@app.command()
def push(
    repo_id: Annotated[str, typer.Argument(help="org/name; the repository is made where it does not exist.")],
    folder: Annotated[Path, typer.Argument(help="Folder of a model, such as runs/NAME/models/gmje-seed0.")],
    license: Annotated[
        str | None, typer.Option(help="Licence of the weights, as the Hub writes it: apache-2.0, mit, other, ...")
    ] = None,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Push model using gmje-hub",
    revision: Annotated[
        str | None, typer.Option(help="Branch of the repository, made where it does not exist.")
    ] = None,
    token: Token = None,
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only you see.")] = False,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace even a README.md written by hand.")
    ] = False,
) -> None:
    """Publish a model with its card in one commit; what was measured of it, in the folder evaluation, goes along."""
    from gmje_hub.publish import push_folder

    if Path(repo_id).is_dir() and not folder.exists():
        raise ModelNotFoundError(f"there is no folder {folder}: the repository comes first, push {folder} {repo_id}")
    pushed = push_folder(
        folder,
        repo_id,
        message=message,
        branch=revision,
        private=private or None,
        create_pr=create_pr,
        overwrite_card=overwrite_card,
        token=token,
        metadata={"license": license},
    )
    if pushed.card_kept:
        typer.echo("the card was written by hand and left as it is; --overwrite-card replaces it")
    typer.echo(f"pushed {folder} to {repo_id} at {pushed.commit}: {pushed.url}")


@app.command()
def pull(
    repo_id: Annotated[str, typer.Argument(help="org/name.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder to make; the cache alone where missing.")] = None,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
) -> None:
    """Fetch and check a model, and say where it is; a folder gets its card and what was measured, too."""
    from gmje_hub.pull import pull_folder

    weights, commit = pull_folder(repo_id, folder, revision=revision, token=token, cache_dir=cache_dir)
    typer.echo(
        f"{repo_id} at {commit} is in the cache: {weights}"
        if folder is None
        else f"{repo_id} at {commit} is in {folder}"
    )


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="A folder, or org/name.")],
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a model is, verified, without taking memory for its weights twice or running anything of it."""
    import hashlib

    from gmje_hub.remote import open_model
    from gmje_hub.weights import check_weights

    files, commit = open_model(model, revision=revision, token=token, cache_dir=cache_dir)
    check_weights(files)
    found: dict[str, Any] = {
        "model": model,
        "revision": commit,
        "sha256": hashlib.sha256(files.read_weights()).hexdigest(),
        "bytes": files.nbytes,
        "tensors": len(files.tensors),
        "numbers": files.parameters,
        **files.config.to_dict(),
        "preprocessing": files.preprocessing.to_dict() if files.preprocessing else None,
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for key, value in found.items():
            typer.echo(f"{key:<18} {value}")


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="A folder, or org/name.")],
    path: Annotated[
        Path, typer.Argument(help="File to write: NAME.onnx, or NAME.pt2 for torch.export; with --timm, a folder.")
    ],
    timm: Annotated[bool, typer.Option("--timm", help="Write a folder that timm and Transformers load.")] = False,
    revision: Revision = None,
    token: Token = None,
    cache_dir: CacheDir = None,
) -> None:
    """Write the encoder, from images to features and embeddings, for other libraries and runtimes."""
    from gmje_hub.model import GMJEModel

    loaded = GMJEModel.from_pretrained(model, revision=revision, token=token, cache_dir=cache_dir)
    if timm:
        from gmje_hub.timm_layout import export_timm

        export_timm(loaded, path, source=model)
        typer.echo(
            f'{path} gives the model\'s features bit by bit: timm.create_model("local-dir:{path}", pretrained=True)'
        )
        return
    from gmje_hub.export import export_file

    difference = export_file(loaded, path)
    typer.echo(f"{path} gives features and embeddings within {difference:.1e} of the model's")


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0 where it was done, 2 after an error, 130 after Ctrl-C.

    Args:
        arguments: Words of the command line; those of the process where missing.
    """
    try:
        status = app(arguments, standalone_mode=False)
        if status == _INTERRUPTED:  # typer turns Ctrl-C into this status
            raise KeyboardInterrupt
        return status if isinstance(status, int) else 0
    except HubError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped; what was being written is there whole, or not at all", "")
        return _INTERRUPTED
    except typer.Exit as stop:
        return stop.exit_code
    except OSError as error:
        return _fail(f"{error.filename or ''}: {error.strerror or error}".removeprefix(": "))
    except Exception as error:
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        return 2 if type(error).__name__ == "NoArgsIsHelpError" else _fail(message())


def _fail(text: str, label: str = "error: ") -> int:
    typer.echo(label + " ".join(text.split()), err=True)
    return 2
