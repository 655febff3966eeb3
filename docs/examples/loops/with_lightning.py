"""GMJE in a LightningModule: the criterion is a submodule, so its state is in the checkpoints."""

from typing import Any

import lightning as L
import torch
from fashion_pairs import FashionPairs, build_encoder
from torch import Tensor
from torch.utils.data import DataLoader

from gmje_core import GMJE


class JointEmbedding(L.LightningModule):
    """An encoder and a criterion."""

    def __init__(self, dim: int = 32) -> None:
        super().__init__()
        self.encoder = build_encoder(dim)
        self.criterion = GMJE(dim=dim, components=64)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """The loss in nats a pair; with several devices, that of the global batch."""
        z_context, z_target = self.encoder(torch.cat(batch)).chunk(2)
        loss: Tensor = self.criterion(z_context, z_target)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the gauges of the density; what has a name and no number is left out."""
        gauges = self.criterion.diagnostics()
        self.log_dict({name: value for name, value in gauges.items() if isinstance(value, float)})

    def configure_optimizers(self) -> Any:
        """Of all parameters, the criterion's included where its options give it some."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main(images: int = 2000, epochs: int = 1) -> float:
    """Train, and return the last loss in nats a pair."""
    L.seed_everything(0, verbose=False)
    loader = DataLoader(FashionPairs(images), batch_size=200, shuffle=True, drop_last=True)
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(JointEmbedding(), loader)
    loss = float(trainer.callback_metrics["loss"])
    print(f"loss {loss:.3f}, effective rank {float(trainer.callback_metrics['effective_rank']):.1f}")
    return loss


if __name__ == "__main__":
    main()
