"""GMJE in Transformers' Trainer: a model whose output has a loss is all that it asks for."""

import tempfile

import torch
from fashion_pairs import FashionPairs, build_encoder
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments, set_seed

from gmje_core import GMJE


class JointEmbedding(nn.Module):
    """An encoder and a criterion, with the names of arguments that ``collate`` gives."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.encoder = build_encoder(dim)
        self.criterion = GMJE(dim=dim, components=64)

    def forward(self, context: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The loss in nats a pair, and the embeddings of the context."""
        z_context, z_target = self.encoder(torch.cat([context, target])).chunk(2)
        return {"loss": self.criterion(z_context, z_target), "embeddings": z_context}


def collate(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Batches by the names of the model's arguments."""
    context, target = zip(*pairs, strict=True)
    return {"context": torch.stack(context), "target": torch.stack(target)}


def main(images: int = 2000, epochs: int = 1) -> float:
    """Train, and return the mean loss in nats a pair."""
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=200,
            learning_rate=2e-3,
            dataloader_drop_last=True,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        model = JointEmbedding()
        trainer = Trainer(model, arguments, train_dataset=FashionPairs(images), data_collator=collate)
        loss = float(trainer.train().training_loss)
    print(f"loss {loss:.3f}, {model.criterion.diagnostics()['verdict']}")
    return loss


if __name__ == "__main__":
    main()
