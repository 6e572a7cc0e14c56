"""The client. Nothing in it knows of fedsim's audit."""

from __future__ import annotations

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits import task

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    model, (learn, _) = received(message), own(context)
    epochs = int(context.run_config["local-epochs"])
    loss = task.train(model, learn, epochs, float(message.content["config"]["lr"]))
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(learn.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model, (_, look) = received(message), own(context)
    metrics = MetricRecord({"accuracy": task.accuracy(model, look), "num-examples": len(look.dataset)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


def received(message: Message) -> task.Net:
    model = task.Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return model


def own(context: Context):
    node = context.node_config
    return task.loaders(int(node["partition-id"]), int(node["num-partitions"]), int(context.run_config["batch-size"]))
