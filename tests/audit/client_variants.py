"""Clients as people write them, and what must come of each: replayed to float32, or one line that says why not."""

from __future__ import annotations

from dataclasses import dataclass, field

from client_apps import CLIENT, DATA, MODEL, PROJECT, TRAIN


@dataclass(frozen=True)
class Variant:
    """An app of these parts, and its outcome.

    Args:
        why: what the reason why it cannot be replayed says; empty: it is replayed.
        refused: what the error says where there is no canary at all.
        facts: some of what must have been seen.
        notes: what one of the notes says.
        images: of the canary.
        output: the field of the model's output that holds the logits.
        alone: it ends its process, or has to be ended: nothing that a copy of the test's own process may do.
    """

    model: str = MODEL
    data: str = DATA
    train: str = TRAIN
    client: str = CLIENT
    project: str = PROJECT
    why: str = ""
    refused: str = ""
    facts: dict[str, object] = field(default_factory=dict)
    notes: str = ""
    images: int = 10
    alone: bool = False
    output: str = ""
    batch_size: int | None = None


def changed(text: str, *pairs: tuple[str, str]) -> str:
    """The text with some of its parts replaced, each of which must occur."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


def optimizer(made: str) -> str:
    return changed(TRAIN, ("torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)", made))


def before_step(*lines: str) -> str:
    return changed(TRAIN, ("loss.backward()\n", "loss.backward()\n" + "".join(f"{' ' * 16}{line}\n" for line in lines)))


NORMED = """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 5, stride=2)
            self.norm = nn.BatchNorm2d(6)
            self.drop = nn.Dropout2d(0.25)
            self.fc = nn.Linear(6 * 6 * 6, 10)

        def forward(self, x):
            return self.fc(self.drop(F.relu(self.norm(self.conv(x)))).flatten(1))
"""

FLAT = """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(768, 20), nn.ReLU(), nn.Dropout(0.5), nn.Linear(20, 10))
"""

ATTENTION = """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.MultiheadAttention(48, 4, dropout=0.1, batch_first=True)
            self.head = nn.Linear(48, 10)

        def forward(self, x):
            x = x.view(len(x), 16, 48)
            return self.head(self.mix(x, x, x)[0].mean(1))
"""

LIBRARY = """
    from dataclasses import dataclass
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader

    @dataclass
    class Output:
        loss: object = None
        logits: object = None

    class DropPath(nn.Module):
        def __init__(self, drop_prob):
            super().__init__()
            self.drop_prob = drop_prob

        def forward(self, x):
            if not self.training:
                return x
            keep = 1 - self.drop_prob
            return x.div(keep) * (keep + torch.rand((len(x), 1, 1))).floor()

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv, self.proj = nn.Linear(48, 144), nn.Linear(48, 48)

        def forward(self, x):
            q, k, v = self.qkv(x).view(len(x), -1, 3, 4, 12).permute(2, 0, 3, 1, 4)
            x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3 if self.training else 0.0)
            return self.proj(x.transpose(1, 2).flatten(2))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.scale = Attention(), nn.Parameter(torch.zeros(48))
            self.up, self.drop, self.drop_path = nn.Linear(48, 48), nn.Dropout(0.2), DropPath(0.5)
            self.down = nn.Linear(48, 48)
            self.down.weight = self.up.weight  # tied

        def forward(self, x):
            x = x + self.drop(self.attention(x))
            return x + self.drop_path(self.scale * self.down(F.gelu(self.up(self.drop(x)))))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.head = Block(), nn.Linear(48, 10)

        def forward(self, pixel_values, labels=None):
            x = self.block(pixel_values.view(len(pixel_values), 16, 48))
            return Output(logits=self.head(x.mean(1)))
"""
"""As libraries have them: a dataclass as output, tied weights, attention by a kernel that drops, one dropout layer for
two places, stochastic depth of a branch that is zero at first (and learns only where it is not dropped)."""

STREAM = """
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            for label in range(30):
                yield {"img": torch.rand(3, 16, 16), "label": label % 10}

    def load_data(batch_size):
        return DataLoader(Stream(), batch_size=batch_size)
"""

EARLIER = """
    from flwr.client import NumPyClient
    from flwr.clientapp import ClientApp
    import torch
    from my_app.task import Net, fit, load_data

    class FlowerClient(NumPyClient):
        def __init__(self, net, loader, epochs):
            self.net, self.loader, self.epochs = net, loader, epochs

        def fit(self, parameters, config):
            names = self.net.state_dict().keys()
            state = {name: torch.tensor(value) for name, value in zip(names, parameters)}
            self.net.load_state_dict(state, strict=True)
            fit(self.net, self.loader, self.epochs, config["lr"])
            arrays = [value.cpu().numpy() for value in self.net.state_dict().values()]
            return arrays, len(self.loader.dataset), {}

    def client_fn(context):
        loader = load_data(context.run_config["batch-size"])
        return FlowerClient(Net(), loader, context.run_config["epochs"]).to_client()

    app = ClientApp(client_fn)
"""

TUPLES = """
    from torch.utils.data import Dataset

    class Pictures(Dataset):
        def __init__(self):
            self.images = torch.rand(30, 3, 16, 16)

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            image = (self.images[index] - 0.5) / 0.25
            if torch.rand(()) < 0.5:
                image = image.flip(-1)
            return image + 0.01 * torch.randn_like(image), index % 10

    def load_data(batch_size):
        return DataLoader(Pictures(), batch_size=batch_size, shuffle=True, num_workers=2)
"""

OF_TUPLES = changed(
    TRAIN,
    ("for batch in loader:", "for images, labels in loader:"),
    ('net(batch["img"]), batch["label"]', "net(images), labels"),
)

PICTURES = """
    import numpy as np
    from PIL import Image

    def load_data(batch_size):
        rng = np.random.default_rng(0)
        pictures = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)) for _ in range(30)]
        mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.25, 0.2])

        def collate(items):
            images = [torch.from_numpy(np.array(item["image"])).permute(2, 0, 1) / 255 for item in items]
            images = [(image - mean.view(3, 1, 1)) / std.view(3, 1, 1) for image in images]
            return {"img": torch.stack(images), "label": torch.tensor([item["fine_label"] for item in items])}

        items = [{"image": picture, "fine_label": 3} for picture in pictures]
        return DataLoader(items, batch_size=batch_size, shuffle=True, collate_fn=collate)
"""

VARIANTS = {
    "tuples and augmentation": Variant(data=TUPLES, train=OF_TUPLES, notes="augmentations were bypassed"),
    "the earlier api": Variant(client=EARLIER),
    "pictures": Variant(data=PICTURES),
    "adamw": Variant(train=optimizer("torch.optim.AdamW(net.parameters(), lr=1e-3)")),
    "adam with weight decay": Variant(
        train=optimizer("torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=0.01)")
    ),
    "nesterov and weight decay": Variant(
        train=optimizer("torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-3)"),
        facts={"nesterov": True, "weight_decay": 1e-3},
    ),
    "batch norm": Variant(model=NORMED),
    "frozen layers": Variant(
        train=changed(TRAIN, ("net.train()", "net.train()\n        net.conv.requires_grad_(False)")),
        facts={"frozen": ("conv.weight", "conv.bias")},
    ),
    "head alone in the optimizer": Variant(
        train=optimizer("torch.optim.SGD(net.fc2.parameters(), lr=lr, weight_decay=0.1)"),
        facts={"frozen": ("conv.weight", "conv.bias", "fc1.weight", "fc1.bias")},
    ),
    "clipping": Variant(
        train=before_step("torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=0.5)"), facts={"clip_norm": 0.5}
    ),
    "clipped values": Variant(
        train=before_step("nn.utils.clip_grad_value_(net.parameters(), 0.01)"), facts={"clip_value": 0.01}
    ),
    "several epochs": Variant(project=changed(PROJECT, ("epochs = 1", "epochs = 3")), facts={"steps": 9}),
    "another batch size": Variant(batch_size=5, facts={"steps": 2, "batch_size": 4}),
    "eval mode": Variant(train=changed(TRAIN, ("net.train()", "net.eval()")), facts={"mode": "eval", "dropout": {}}),
    "batch norm in eval mode": Variant(
        model=NORMED,
        train=changed(TRAIN, ("net.train()", "net.train(); net.norm.eval()")),
        facts={"mode": "mixed", "resting": ("norm",)},
    ),
    "in double precision": Variant(
        train=changed(
            TRAIN, ("net.train()", "net.train(); net.double()"), ('net(batch["img"])', 'net(batch["img"].double())')
        ),
        facts={"dtype": "float64"},
    ),
    "in half precision": Variant(
        train=changed(
            TRAIN,
            ("net.train()", "net.train(); net.bfloat16()"),
            ('net(batch["img"])', 'net(batch["img"].bfloat16())'),
        )
        + "        net.float()\n",
        why="rounding alone changes its update",
    ),
    "autocast": Variant(
        train=changed(
            TRAIN,
            ('net(batch["img"])', 'torch.autocast("cpu", torch.bfloat16)(net)(batch["img"])'),
        ),
        why=r"autocast \(bfloat16\)",
    ),
    "a schedule": Variant(
        train=changed(
            TRAIN,
            ("net.train()", "net.train()\n        rates = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)"),
            ("optimizer.step()", "optimizer.step()\n                rates.step()"),
        ),
        facts={"learning_rates": (0.05, 0.025, 0.0125)},
    ),
    "a warm-up from nothing, and a cosine": Variant(
        train=changed(
            TRAIN,
            (
                "net.train()",
                "net.train()\n        from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, SequentialLR\n"
                "        parts = [LambdaLR(optimizer, lambda n: n / 2), CosineAnnealingLR(optimizer, 5)]\n"
                "        rates = SequentialLR(optimizer, parts, [2])",
            ),
            ("optimizer.step()", "optimizer.step()\n                rates.step()"),
        ),
        project=changed(PROJECT, ("epochs = 1", "epochs = 2")),
        facts={"steps": 6, "lr": 0.0},
    ),
    "momentum that changes": Variant(
        train=changed(
            TRAIN,
            (
                "net.train()",
                "net.train()\n        rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=9)",
            ),
            ("optimizer.step()", "optimizer.step()\n                rates.step()"),
        ),
        why=r"hyper-parameters change between steps \(momentum\)",
    ),
    "accumulation": Variant(
        train=changed(
            TRAIN,
            ("for batch in loader:", "for number, batch in enumerate(loader):"),
            ("optimizer.zero_grad()", "pass"),
            ("loss.backward()", "(loss / 2).backward()"),
            ("optimizer.step()", "(optimizer.step(), optimizer.zero_grad()) if number % 2 else None"),
        ),
        images=8,
        facts={"backwards": (2,), "steps": 1},
    ),
    "accumulation without a mean": Variant(
        train=changed(
            TRAIN,
            ("for batch in loader:", "for number, batch in enumerate(loader):"),
            ("optimizer.zero_grad()", "pass"),
            ("optimizer.step()", "(optimizer.step(), optimizer.zero_grad()) if number % 2 else None"),
        ),
        images=8,
        why="is 2 times that of the mean loss over its images, as it adds up 2 backward passes",
    ),
    "closures": Variant(
        train=changed(
            TRAIN,
            (
                'loss = F.cross_entropy(net(batch["img"]), batch["label"])\n                loss.backward()\n'
                "                optimizer.step()",
                'def closure(batch=batch):\n                    loss = F.cross_entropy(net(batch["img"]), '
                'batch["label"])\n                    loss.backward()\n                    return loss\n'
                "                optimizer.step(closure)",
            ),
        )
    ),
    "validation between epochs": Variant(
        project=changed(PROJECT, ("epochs = 1", "epochs = 2")),
        train=TRAIN
        + "            net.eval()\n            for batch in loader:\n"
        + '                F.cross_entropy(net(batch["img"]), batch["label"]).item()\n            net.train()\n',
        facts={"steps": 6},
    ),
    "a term besides": Variant(
        train=changed(
            TRAIN,
            (
                "loss.backward()",
                "loss = loss + 0.1 * sum(p.square().sum() for p in net.parameters())\n                loss.backward()",
            ),
        ),
        why="the gradient of its first step is off by",
    ),
    "summed loss": Variant(
        train=changed(TRAIN, ('batch["label"])', 'batch["label"], reduction="sum")')), why="the sum over a batch"
    ),
    "smoothed labels": Variant(train=changed(TRAIN, ('batch["label"])', 'batch["label"], label_smoothing=0.1)'))),
    "squared error": Variant(
        train=changed(
            TRAIN,
            (
                'F.cross_entropy(net(batch["img"]), batch["label"])',
                'F.mse_loss(net(batch["img"]), F.one_hot(batch["label"], 10).float())',
            ),
        ),
        why="computed with mse_loss",
    ),
    "two rates": Variant(
        train=optimizer(
            'torch.optim.SGD([{"params": net.conv.parameters()}, {"params": net.fc2.parameters(), "lr": 1.0}], lr=lr)'
        ),
        facts={"frozen": ("fc1.weight", "fc1.bias"), "learning_rates": (0.05,) * 3},
    ),
    "two rates, each with a schedule of its own": Variant(
        train=changed(
            TRAIN,
            (
                "torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)",
                'torch.optim.SGD([{"params": net.conv.parameters()}, {"params": [*net.fc1.parameters(), '
                '*net.fc2.parameters()], "lr": 0.5, "momentum": 0.5}], lr=lr)\n'
                "        each = [lambda n: 0.5**n, lambda n: (3 - n) / 3]\n"
                "        rates = torch.optim.lr_scheduler.LambdaLR(optimizer, each)",
            ),
            ("optimizer.step()", "optimizer.step()\n                rates.step()"),
        ),
    ),
    "no decay of biases, by the earlier api": Variant(
        client=EARLIER,
        train=optimizer(
            'torch.optim.AdamW([{"params": [p for p in net.parameters() if p.dim() > 1]}, '
            '{"params": [p for p in net.parameters() if p.dim() < 2], "weight_decay": 0.0}], lr=1e-3, weight_decay=0.5)'
        ),
    ),
    "frozen layers, by the earlier api": Variant(
        client=EARLIER,
        train=changed(TRAIN, ("net.train()", "net.train()\n        net.conv.requires_grad_(False)")),
        facts={"frozen": ("conv.weight", "conv.bias")},
    ),
    "a group of its own from the second step on": Variant(
        train=changed(
            TRAIN,
            ("torch.optim.SGD(net.parameters()", "torch.optim.SGD(net.fc2.parameters()"),
            ("optimizer.step()", 'optimizer.step()\n                if len(optimizer.param_groups) < 2:\n'
             '                    optimizer.add_param_group({"params": net.conv.parameters()})'),
        ),
        why="groups of parameters change between steps",
    ),
    "rmsprop": Variant(
        train=optimizer("torch.optim.RMSprop(net.parameters(), lr=1e-3)"),
        why="no optimizer of ours computes what torch.optim.RMSprop does",
    ),
    "mixup": Variant(
        train=changed(
            TRAIN, ("optimizer.zero_grad()", 'batch["img"] = 0.7 * batch["img"] + 0.3 * batch["img"].flip(0)')
        ),
        why="other images than its DataLoader gave",
    ),
    "noise in the model": Variant(
        model=changed(MODEL, ("x = self.drop(", "x = self.drop(0.1 * torch.randn(1) + ")),
        why=r"random numbers are drawn in module 'itself' \(Net\)",
    ),
    "noise on the update": Variant(
        client=changed(
            CLIENT,
            ("    metrics = ", "    net.fc2.bias.data.add_(0.1 * torch.randn(10))\n        metrics = "),
            ("from my_app", "import torch\n    from my_app"),
        ),
        why="fc2.bias was changed after it",
    ),
    "a head of its own": Variant(
        client=changed(CLIENT, ("loader = load_data", "net.fc2.reset_parameters()\n        loader = load_data")),
        why="step 1 does not start at what was sent: fc2.weight",
    ),
    "weights changed in between": Variant(
        train=changed(
            TRAIN, ("optimizer.step()", "optimizer.step()\n                net.fc2.weight.data.clamp_(-0.05, 0.05)")
        ),
        why="fc2.weight was changed in between",
    ),
    "no loader": Variant(
        data="""
    def load_data(batch_size):
        return [{"img": torch.rand(4, 3, 16, 16), "label": torch.zeros(4, dtype=torch.long)}]
""",
        client=changed(CLIENT, ("len(loader.dataset)", "4")),
        refused="makes no torch.utils.data.DataLoader",
    ),
    "no optimizer": Variant(
        train=changed(
            TRAIN,
            ("optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)", "pass"),
            ("optimizer.zero_grad()", "net.zero_grad()"),
            ("optimizer.step()", "[p.data.sub_(lr * p.grad) for p in net.parameters()]"),
        ),
        refused="no step of a torch optimizer",
    ),
    "an error": Variant(
        train=changed(TRAIN, ("net.train()", 'raise KeyError("no such column")')),
        refused=r"raised KeyError: 'no such column' \(task.py, line \d+\)$",
    ),
    "it exits": Variant(
        train=changed(TRAIN, ("net.train()", "import sys; sys.exit(3)")), refused="raised SystemExit: 3"
    ),
    "it is killed": Variant(
        train=changed(TRAIN, ("net.train()", "import os; os._exit(9)")),
        refused=r"without an answer \(exit code 9\)",
        alone=True,
    ),
    "it hangs": Variant(
        train=changed(TRAIN, ("net.train()", "import time; time.sleep(1000)")),
        refused=r"does not end within 20 s; it was at task.py, line \d+$",
        alone=True,
    ),
    "the network": Variant(
        data="""
    import urllib.request
    def load_data(batch_size):
        urllib.request.urlopen("http://127.0.0.1:9/images.zip")
""",
        refused="needs the network and does not reach it: ",
    ),
    "other images": Variant(
        data=changed(DATA, ("torch.rand(3, 16, 16", "torch.rand(3, 20, 20")),
        refused=r"no image of shape \(3, 16, 16\): img: float32 \(3, 20, 20\), label: int",
    ),
    "a sampler of its own": Variant(
        data=changed(
            DATA,
            (
                "shuffle=True",
                "sampler=torch.utils.data.WeightedRandomSampler([1.0] * 40, 40)",
            ),
        ),
        refused=r"sampler of its own \(WeightedRandomSampler\)",
    ),
    "another normalisation": Variant(
        data=changed(DATA, ("torch.rand(3, 16, 16, generator=g)", "torch.randn(3, 16, 16, generator=g)")),
        notes="would have pixels from",
    ),
    "normalised in the loop": Variant(
        data=changed(DATA, ("torch.rand(3, 16, 16, generator=g)", "torch.randint(0, 256, (3, 16, 16)) / 255")),
        train=changed(TRAIN, ('net(batch["img"])', 'net((batch["img"] - NORM[0]) / NORM[1])'))
        + "\n    NORM = torch.tensor([[0.5, 0.4, 0.3], [0.5, 0.25, 0.2]]).view(2, 1, 3, 1, 1)\n",
    ),
    "bytes": Variant(
        data=changed(DATA, ("torch.rand(3, 16, 16, generator=g)", "torch.zeros(3, 16, 16, dtype=torch.uint8)")),
        train=changed(TRAIN, ('net(batch["img"])', 'net(batch["img"] / 127.5 - 1)')),
        why="images of mean 0.5 0.5 0.5 and std 0.5 0.5 0.5, not 0.5 0.4 0.3 and 0.5 0.25 0.2 as stated",
    ),
    "never normalised": Variant(
        data=changed(DATA, ("torch.rand(3, 16, 16, generator=g)", "torch.randint(0, 256, (3, 16, 16)) / 255")),
        why="images of mean .* and std 1 1 1, not",
    ),
    "flattened in the loop": Variant(
        model=FLAT,
        train=changed(TRAIN, ('net(batch["img"])', 'net(batch["img"].flatten(1))')),
        facts={"input_shape": (768,)},
    ),
    "an attribute of the data set": Variant(
        data=changed(DATA, ("DataLoader(items,", "DataLoader(type('Items', (list,), {'classes': 10})(items),")),
        client=changed(CLIENT, ('"num-examples": len(loader.dataset)', '"num-examples": loader.dataset.classes')),
    ),
    "a stream": Variant(
        data=STREAM,
        client=changed(CLIENT, ("len(loader.dataset)", "3")),
        project=changed(PROJECT, ("epochs = 1", "epochs = 2")),
    ),
    "last batch dropped": Variant(
        data=changed(DATA, ("shuffle=True", "shuffle=True, drop_last=True")),
        project=changed(PROJECT, ("epochs = 1", "epochs = 2")),
        facts={"steps": 4},
    ),
    "two networks": Variant(
        train=changed(
            TRAIN,
            ("net.train()", "import copy; teacher = copy.deepcopy(net).eval(); net.train()"),
            ('loss = F.', 'teacher(batch["img"]); loss = F.'),
        )
    ),
    "stochastic attention": Variant(model=ATTENTION, facts={"dropout": {"mix.functional_dropout_0": 0.1}}),
    "a library's vision transformer": Variant(
        model=LIBRARY,
        train=changed(TRAIN, ('net(batch["img"])', 'net(batch["img"]).logits')),
        output="logits",
        facts={
            "dropout": {
                "block.attention.functional_dropout_0": 0.3,
                "block.drop.0": 0.2,
                "block.drop.1": 0.2,
                "block.drop_path": 0.5,
            }
        },
    ),
    "stochastic depth, one draw a batch": Variant(
        model=changed(
            LIBRARY, ("(len(x), 1, 1)", "(1, 1, 1)"), ("self.drop_prob =", 'self.mode, self.drop_prob = "batch",')
        ),
        train=changed(TRAIN, ('net(batch["img"])', 'net(batch["img"]).logits')),
        output="logits",
    ),
    "named inputs": Variant(
        model=changed(
            MODEL, ("def forward(self, x):", "def forward(self, *, pixel_values):\n            x = pixel_values")
        ),
        train=changed(TRAIN, ('net(batch["img"])', 'net(pixel_values=batch["img"])')),
        why=r"the model cannot be run on images \(2, 3, 16, 16\): Net.forward\(\) takes 1 positional argument",
        facts={"input_shape": (3, 16, 16), "steps": 3},
    ),
    "a wrapped model": Variant(
        train=changed(
            TRAIN,
            ("net.train()", "net.train(); whole = nn.Sequential(nn.Identity(), net)"),
            ('net(batch["img"])', 'whole(batch["img"])'),
        )
    ),
    "parts of the model": Variant(
        train=changed(
            TRAIN,
            ('net(batch["img"])', 'net.fc2(F.relu(net.fc1(F.relu(net.conv(batch["img"])).flatten(1))))'),
        ),
        refused="no optimizer step of the client trains a called module with the arrays that were sent",
    ),
    "opacus": Variant(
        train=changed(
            TRAIN,
            (
                "net.train()",
                "net.train(); from opacus import PrivacyEngine\n        net, optimizer, loader = PrivacyEngine("
                "accountant='rdp').make_private(module=net, optimizer=optimizer, data_loader=loader, "
                "noise_multiplier=1.0, max_grad_norm=1.0)",
            ),
        ),
        refused=r"batch sampler of its own \(UniformWithReplacementSampler\)",
    ),
    "opacus with batches of one size": Variant(
        train=changed(
            TRAIN,
            (
                "net.train()",
                "net.train(); from opacus import PrivacyEngine\n        net, optimizer, loader = PrivacyEngine("
                "accountant='rdp').make_private(module=net, optimizer=optimizer, data_loader=loader, "
                "noise_multiplier=1.0, max_grad_norm=1.0, poisson_sampling=False)",
            ),
        ),
        why="gradients are changed after the backward pass",
    ),
    "no arrays of ours": Variant(
        client=changed(CLIENT, ("ArrayRecord(net.state_dict())", 'ArrayRecord({"fc2.weight": net.fc2.weight.data})')),
        why="the reply's arrays are not those that were sent: conv.bias, conv.weight, fc1.bias, fc1.weight",
    ),
}
