"""Flower client apps as users write them, in folders of their own."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch
from torch import Tensor

from fedsim.recording import Recorded

MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)

MODEL = """
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 5, stride=2)
            self.drop = nn.Dropout(0.25)
            self.fc1 = nn.Linear(6 * 6 * 6, 24)
            self.fc2 = nn.Linear(24, 10)

        def forward(self, x):
            x = self.drop(F.relu(self.conv(x))).flatten(1)
            x = F.dropout(F.relu(self.fc1(x)), 0.5, self.training)
            return self.fc2(x)
"""

DATA = """
    def load_data(batch_size):
        g = torch.Generator().manual_seed(7)
        items = [{"img": torch.rand(3, 16, 16, generator=g), "label": i % 10} for i in range(40)]
        return DataLoader(items, batch_size=batch_size, shuffle=True)
"""

TRAIN = """
    def fit(net, loader, epochs, lr):
        optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
        net.train()
        for _ in range(epochs):
            for batch in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(net(batch["img"]), batch["label"])
                loss.backward()
                optimizer.step()
"""

CLIENT = """
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from my_app.task import Net, fit, load_data

    app = ClientApp()

    @app.train()
    def train(msg: Message, context: Context):
        net = Net()
        net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
        loader = load_data(context.run_config["batch-size"])
        fit(net, loader, context.run_config["epochs"], msg.content["config"]["lr"])
        metrics = MetricRecord({"num-examples": len(loader.dataset)})
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=msg)
"""

PROJECT = """
    [tool.flwr.app]
    publisher = "me"

    [tool.flwr.app.components]
    serverapp = "my_app.server:app"
    clientapp = "my_app.client:app"

    [tool.flwr.app.config]
    batch-size = 4
    epochs = 1
"""


def written(
    folder: Path,
    *,
    model: str = MODEL,
    data: str = DATA,
    train: str = TRAIN,
    client: str = CLIENT,
    project: str = PROJECT,
) -> Path:
    """A client app of these parts."""
    task = "\n".join(textwrap.dedent(part) for part in (model, data, train))
    package = folder / "my_app"
    package.mkdir(parents=True)
    for name, text in {"__init__.py": "", "task.py": task, "client.py": textwrap.dedent(client)}.items():
        (package / name).write_text(text)
    (folder / "pyproject.toml").write_text(textwrap.dedent(project))
    return folder


def model_of(app: Path) -> torch.nn.Module:
    """The app's own model, as the audit has it."""
    names: dict[str, object] = {"__name__": "task"}
    exec(compile((app / "my_app" / "task.py").read_text(), "task.py", "exec", dont_inherit=True), names)
    torch.manual_seed(0)
    return names["Net"]()  # type: ignore[operator]


def photographs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 (count, 3, 16, 16) and labels."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return pixels, torch.randint(0, 10, (count,), generator=generator)


def a_message(model: torch.nn.Module, lr: float = 0.05) -> Recorded:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    return Recorded(1, "0", state, state, {}, {"lr": lr})
