"""Models of the libraries that people take them from, as initialised: a client that trains one is replayed to float32.

Each runs where its library is installed; `client_variants.LIBRARY` has their shapes, and always runs.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from client_apps import DATA, MEAN, STD, TRAIN, a_message, model_of, photographs, written
from client_variants import changed

from fedsim.audit.canary import play
from fedsim.audit.replaying import replayed
from fedsim.models import foreign

HEAD = """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader
"""
TIMM = "import timm\n    def Net(): return timm.create_model({})"
SMALL = "hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48"
IMAGES = f"{SMALL}, image_size=16, patch_size=8, num_labels=10"
DROPPING = "hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1"
WIDE = "image_size=16, patch_size=8, num_classes=10, dim=32, depth=2, heads=2, mlp_dim=48, dropout=0.1"

BERT = f"""from transformers import BertConfig, BertForSequenceClassification
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 32, 8, 8)
            self.bert = BertForSequenceClassification(BertConfig({SMALL}, {DROPPING}, vocab_size=20, num_labels=10))
        def forward(self, x):
            return self.bert(inputs_embeds=self.embed(x).flatten(2).transpose(1, 2))"""

MODELS = {
    "timm: a vision transformer": (
        "timm",
        TIMM.format(
            '"vit_tiny_patch16_224", num_classes=10, img_size=16, patch_size=8, embed_dim=48, depth=2, num_heads=2, '
            "drop_rate=0.1, attn_drop_rate=0.1, proj_drop_rate=0.1, drop_path_rate=0.1"
        ),
        "",
    ),
    "timm: a residual network": (
        "timm",
        TIMM.format('"resnet10t", num_classes=10, drop_rate=0.1, drop_path_rate=0.2'),
        "",
    ),
    "transformers: a vision transformer": (
        "transformers",
        "from transformers import ViTConfig, ViTForImageClassification\n"
        f"    def Net(): return ViTForImageClassification(ViTConfig({IMAGES}, {DROPPING}))",
        "logits",
    ),
    "transformers: stochastic depth": (
        "transformers",
        "from transformers import Dinov2Config, Dinov2ForImageClassification\n"
        f"    def Net(): return Dinov2ForImageClassification(Dinov2Config({IMAGES}, drop_path_rate=0.2))",
        "logits",
    ),
    "transformers: BERT on patches": ("transformers", BERT, "logits"),
    "vit-pytorch: a vision transformer": (
        "vit_pytorch",
        f"from vit_pytorch.vit import ViT\n    def Net(): return ViT({WIDE}, emb_dropout=0.1)",
        "",
    ),
    "vit-pytorch: CaiT": (
        "vit_pytorch",
        f"from vit_pytorch.cait import CaiT\n    def Net(): return CaiT({WIDE}, cls_depth=1)",
        "",
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_client_that_trains_it_is_replayed(name: str, tmp_path: Path) -> None:
    library, code, output = MODELS[name]
    try:
        importlib.import_module(library)
    except Exception as error:  # a library that cannot be imported here, for whatever reason of its own
        pytest.skip(f"{library}: {type(error).__name__}")
    train = changed(TRAIN, ('net(batch["img"])', f'net(batch["img"]){output and "." + output}'))
    app = written(tmp_path / "app", model=f"{HEAD}    {code}\n", data=DATA, train=train)
    torch.manual_seed(0)
    model = foreign.taking(model_of(app), output)
    canary = play(app, a_message(model), *photographs(6), mean=MEAN, std=STD, batch_size=3)
    found = replayed(canary, model)
    assert found.why is None, found
    assert found.error < 1e-4
