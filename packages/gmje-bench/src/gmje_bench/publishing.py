"""After a run: its models to repositories, each with the card that the results make."""

from collections.abc import Iterator
from pathlib import Path

from gmje_bench.errors import BenchError
from gmje_bench.runs import Results

__all__ = ["PublishError", "publish_models"]


class PublishError(BenchError):
    """The results are on disk, but a model was not published."""


def publish_models(folder: Path, results: Results, repo_id: str) -> Iterator[str]:
    """Push the models of a run's first seed that ``GMJEModel.from_pretrained`` loads.

    Args:
        folder: Of the run.
        results: Of the run.
        repo_id: ``org/name``; of several methods the name continues with the method's.

    Yields:
        A line for every model that was pushed.

    Raises:
        PublishError: there is none, or the Hub did not take it; the text says how to try again.
    """
    from gmje_hub import HubError
    from gmje_hub.publish import push_folder

    seed = results.options["seeds"][0]
    done = [r.method for r in results.records if (r.seed, r.status) == (seed, "ok") and r.method not in results.sources]
    models = {name: folder / "models" / f"{name}-seed{seed}" for name in done}
    models = {name: path for name, path in models.items() if (path / "config.json").exists()}
    if not models:
        raise PublishError(f"nothing to publish: no method of {folder} that learns a density has finished")
    for name, path in models.items():
        target = repo_id if len(models) == 1 else f"{repo_id}-{name}"
        try:
            pushed = push_folder(path, target)
        except HubError as error:
            raise PublishError(
                f"{name} was not published ({error}); `python -m gmje_hub push {path} {target}` tries again"
            ) from error
        kept = " (its card, written by hand, was left as it is)" if pushed.card_kept else ""
        yield f"published {name} as {target} at {pushed.commit}{kept}"
