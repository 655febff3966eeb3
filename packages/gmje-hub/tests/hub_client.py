"""The client that the tests of repositories run in a process of its own, with its environment set before imports.

Reads one JSON request a line, ``[function, arguments]``, and answers one JSON line, ``{"value": ...}`` or
``{"error": type, "text": ...}``.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any


def outputs(model: Any) -> str:
    """Hash of the bits of what a model gives for fixed images."""
    import torch

    images = torch.linspace(0, 1, 2 * 28 * 28).view(2, 1, 28, 28)
    values = [model.embed(images), model.log_prob(images, images.flip(0)), *model.uncertainty(images)]
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest()


def load(name: str, **options: Any) -> dict[str, Any]:
    from gmje_hub import GMJEModel

    model = GMJEModel.from_pretrained(name, **options)
    preprocessing = model.preprocessing and model.preprocessing.to_dict()
    return {
        "revision": model.revision,
        "outputs": outputs(model),
        "training": model.training,
        "preprocessing": preprocessing,
    }


def make(folder: str, seed: int, preprocessed: bool = True) -> str:
    import torch

    from gmje_core import GMJEConfig, Preprocessing
    from gmje_hub import GMJEModel

    torch.manual_seed(seed)
    options = {"components": 4}
    config = GMJEConfig(backbone="smallconv", in_channels=1, image_size=28, dim=8, hidden=16, criterion_options=options)
    preprocessing = Preprocessing(size=28, image_mean=(0.25,), image_std=(0.5,)) if preprocessed else None
    model = GMJEModel(config, preprocessing)
    for _ in range(2):
        model(*torch.rand(2, 32, 1, 28, 28))
    model.save_pretrained(folder)
    return outputs(model.eval())


def push(folder: str, repo_id: str, evaluation: str | None = None, **options: Any) -> str:
    from pathlib import Path

    from gmje_hub import GMJEModel
    from gmje_hub.evaluation import Evaluation

    if evaluation is not None:
        options["evaluation"] = Evaluation.from_json(evaluation)
    return GMJEModel.from_pretrained(Path(folder)).push_to_hub(repo_id, **options)


def validate(card: str) -> dict[str, Any]:
    """The Hub's own check of a card, and what its classes read in it."""
    from huggingface_hub import ModelCard, constants, repocard

    class Session:
        """Of this server: clients before 2.2 ask the public one, whatever HF_ENDPOINT says."""

        def post(self, url: str, **body: Any) -> Any:
            return get_session().post(url.replace("https://huggingface.co", constants.ENDPOINT), **body)

    get_session, repocard.get_session = repocard.get_session, Session
    parsed = ModelCard(card)
    try:
        parsed.validate()
    finally:
        repocard.get_session = get_session
    return {result.metric_name: result.metric_value for result in parsed.data.eval_results or []}


def cli(*arguments: str) -> dict[str, Any]:
    import contextlib
    import io

    from gmje_hub.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(list(arguments))
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


def timm_features(name: str, images: Any) -> dict[str, Any]:
    """The features of a repository's model by timm alone."""
    import timm
    import torch

    model = timm.create_model(name, pretrained=True).eval()
    with torch.no_grad():
        return {"features": model(torch.tensor(images)).tolist(), "data": timm.data.resolve_model_data_config(model)}


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "load": load,
    "make": make,
    "push": push,
    "cli": cli,
    "validate": validate,
    "timm_features": timm_features,
}

if __name__ == "__main__":
    answers = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        function, positional, named = json.loads(line)
        try:
            answer: dict[str, Any] = {"value": FUNCTIONS[function](*positional, **named)}
        except Exception as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        print(json.dumps(answer), file=answers, flush=True)
