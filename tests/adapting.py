"""A small network, adapted from Python and trained for three steps."""

from collections import OrderedDict

import torch
from every import BUDGETS
from torch import nn

import zoo


def settings_of(name, ratio=0.35):
    return BUDGETS.get(name, {"ratio": ratio})


class Net(nn.Module):
    """A small network with what real ones have: norms with statistics, a layer without bias."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(
            OrderedDict(
                inner=nn.Linear(8, 8),
                act=nn.ReLU(),
                norm=nn.BatchNorm1d(8),
                outer=nn.Linear(8, 8, bias=False),
            )
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.blocks(x))


def made(seed=0):
    torch.manual_seed(seed)
    return Net().eval()


def x(rows=4):
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(1))


BATCHES = [torch.randn(16, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def train(net, batches=BATCHES):
    net.train()
    optimizer = torch.optim.AdamW(zoo.param_groups(net, lr=0.05))
    for batch in batches:
        loss = (net(batch) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def assert_same_state(net, before):
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def adapted(name="LoRA", **more):
    return zoo.adapt(made(), getattr(zoo, name), targets="blocks.*", **settings_of(name) | more)
