"""A shortcut serves as long as nothing that it stands for is redefined; the suite finds those who
lie about it.
"""

import pytest
import torch
from every import thinned
from torch import nn

from zoo.bases import block_products, cosine
from zoo.bases.cosine import Cosine
from zoo.bases.seeds import generator, haar_matrix
from zoo.layers.batched import batches
from zoo.parameterizations import (
    DCT,
    BlockDCT,
    Dense,
    LoRA,
    OrthonormalSubspace,
    RandLoRA,
    RandomOrthonormal,
    RowDCT,
    SeparableSubspace,
    WeightParameterization,
    Zigzag,
)
from zoo.testing import agree, case_for, conformance
from zoo.testing.running import failure
from zoo.training.muon import SubspaceMuon


class Signs:
    """A sign for each row of W, drawn for each layer."""

    def reset_buffers(self):
        super().reset_buffers()
        draw = torch.randint(
            0, 2, (self.out_features, 1), generator=generator(self.seed, "signs", self.layer)
        )
        self.register_buffer("signs", (2 * draw - 1).to(self.coef), persistent=False)

    def synthesize(self, plane):
        return self.signs.to(plane.dtype) * super().synthesize(plane)

    def analyze(self, weight):
        return super().analyze(self.signs.to(weight.dtype) * weight)


class Turned:
    """The same, around `expand` and `gather`."""

    def expand(self, coef):
        return super().expand(coef).flip(0)

    def gather(self, weight):
        return super().gather(weight.flip(0))


class Negative:
    """The same, around `weight`; projection follows."""

    def weight(self):
        return -super().weight()

    def project_(self, target):
        super().project_(-target)


class Other:
    """Other sides."""

    def side(self, n, axis):
        return haar_matrix(n, self.seed, "other", axis)


def by_fft(p):
    return isinstance(p.tables, cosine.CosinePlan)


def below(*parents):
    return type("".join(parent.__name__ for parent in parents), parents, {"__module__": __name__})


class SignedDCT(Signs, DCT):
    """Passed every contract, and trained another function than it evaluated."""


CHANGED = [
    *(
        below(change, cls)
        for change in (Signs, Turned, Negative)
        for cls in (DCT, RowDCT, Zigzag, RandomOrthonormal, BlockDCT)
    ),
    *(below(Other, cls) for cls in (DCT, RowDCT, Zigzag)),
    below(Negative, LoRA),
    below(Negative, RandLoRA),
]
ARGUMENTS = {
    LoRA: {"rank": 2},
    RandLoRA: {"num_bases": 3, "rank": 1},
    BlockDCT: {"ratio": 0.25, "block": 4},
}
PATHS = [
    "test_forward_equals_weight",
    "test_forward_update",
    "test_layers_train_their_weight",
    "test_layers_keep_their_weight",
    "test_together_is_alone",
    "test_meta_initialisation",
    "test_layers_keep_their_positions",
    "test_spread_is_weight_up_to_rotations",
    "test_gather_is_the_adjoint_of_expand",
    "test_a_large_weight_is_of_its_sides",
]


def arguments_of(cls):
    return next(
        (given for known, given in ARGUMENTS.items() if issubclass(cls, known)), {"ratio": 0.3}
    )


@pytest.mark.parametrize("always", [False, True], ids=["", "fast"])
@pytest.mark.parametrize("cls", thinned(CHANGED, 2), ids=lambda cls: cls.__name__)
def test_a_changed_class_computes_what_it_says_on_every_path(cls, always, monkeypatch):
    """FFTs from the smallest size on, and products without W wherever a class has them, or not."""
    if always:
        monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)
        monkeypatch.setattr(block_products, "product_pays", lambda *_: True)
    case = case_for(cls, arguments_of(cls))
    for name in PATHS:
        if (test := getattr(case, name, None)) is not None:
            extra = {"dtype": torch.float64} if name == "test_forward_equals_weight" else {}
            test(**({} if name.startswith("test_a_large") else {"shape": (24, 8)}), **extra)


def test_a_changed_class_holds_every_contract():
    assert [found for found in conformance(case_for(SignedDCT, {"ratio": 0.3})) if found[2]] == []


def test_a_transform_of_ones_own_is_given_plain_planes(monkeypatch):
    """(m, n) to (m, n), also where the class it comes from packs them for the FFT, and never a
    batch.
    """
    monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)
    seen = set()

    class Watched(DCT):
        def synthesize(self, plane):
            seen.add(tuple(plane.shape))
            return super().synthesize(plane)

    layers = [Watched(12, 9, ratio=0.5).for_layer(name) for name in "ab"]
    assert by_fft(DCT(12, 9, ratio=0.5)) and not by_fft(layers[0]) and batches(layers) == []
    layers[0].weight()
    assert seen == {(12, 9)}


def test_a_class_can_say_that_a_shortcut_still_serves(monkeypatch):
    """By naming it: batches of a transform that takes them, FFTs of planes that are passed on as
    they are.
    """
    monkeypatch.setitem(cosine.FFT_FROM, "cpu", 0)

    class Halved(DCT):
        basis = DCT.basis
        batch_key = DCT.batch_key

        def synthesize(self, plane):
            return -super().synthesize(plane)

        def analyze(self, weight):
            return -super().analyze(weight)

    layers = [Halved(12, 9, ratio=0.5).for_layer(name) for name in "ab"]
    assert by_fft(layers[0]) and batches(layers) == [layers]
    case_for(Halved, {"ratio": 0.5}).test_together_is_alone((12, 9))


def test_what_is_not_changed_keeps_its_shortcuts():
    """A subclass with a new constructor, name or side of its own multiplies as fast as before."""

    class Small(LoRA):
        def __init__(self, m, n):
            super().__init__(m, n, rank=1)

    class Own(SeparableSubspace):
        def side(self, n, axis):
            return haar_matrix(n, 3, axis)

    assert Small.forward is LoRA.forward and not Small(8, 8).builds_weight
    assert type("Blocks", (BlockDCT,), {}).forward is BlockDCT.forward
    assert len(batches([Own(8, 6, ratio=0.5).for_layer(name) for name in "abc"])) == 1
    assert below(Negative, LoRA).forward is WeightParameterization.forward
    assert below(Negative, RandLoRA)(8, 6).builds_weight
    assert below(Signs, BlockDCT).expand is OrthonormalSubspace.expand


def test_a_shortcut_of_a_strangers_class_gives_way_too():
    class Diagonal(WeightParameterization):
        def __init__(self, m, n, seed=0):
            super().__init__(m, n, seed)
            self.d = nn.Parameter(torch.ones(min(m, n)))

        def weight(self):
            return torch.eye(*self.shape, dtype=self.d.dtype)[:, : len(self.d)] * self.d

        def forward(self, x, bias=None):
            return x * self.d if bias is None else x * self.d + bias

        def reset_parameters(self, std): ...

        def project_(self, target): ...

    class Double(Diagonal):
        def weight(self):
            return 2 * super().weight()

    x = torch.randn(3, 4)
    agree(Diagonal(4, 4)(x), x)
    agree(Double(4, 4)(x), 2 * x)
    assert Double(4, 4).builds_weight and not Diagonal(4, 4).builds_weight


@pytest.mark.parametrize("parents", [(Signs, BlockDCT), (Turned, BlockDCT), (Signs, DCT)])
def test_a_changed_class_compiles(parents):
    case_for(below(*parents), arguments_of(parents[1])).test_compiles()


def test_tables_of_ones_own_are_built_alone():
    class Own(RandomOrthonormal):
        @property
        def tables(self):
            draw = torch.randint(
                0, 2, (self.out_features,), generator=generator(self.seed, self.layer)
            )
            found = super().tables
            return found._replace(left=found.left * (2 * draw - 1))

    case_for(Own, {"ratio": 0.5}).test_together_is_alone((12, 9))


def test_muon_steps_along_the_gradient_of_a_changed_class():
    """One step of a full basis with signs of its own is that of dense weights."""
    changed, dense = SignedDCT(12, 8, ratio=1.0).for_layer("a"), Dense(12, 8)
    changed.project_(dense.coef)
    start, grad = dense.coef.detach().clone(), torch.randn(12, 8)
    for p in (changed, dense):
        optimizer = SubspaceMuon(
            [{"params": [p.coef], "lr": 0.02, "weight_decay": 0.0, "muon": True}],
            {p.coef: p},
            0.02,
            (0.9, 0.99),
        )
        (p.weight() * grad).sum().backward()
        optimizer.step()
    agree(changed.weight().detach() - start, dense.coef.detach() - start, 0.05)


# ---- The suite finds -----------------------------------------------------------------------------


class Idle(LoRA):
    """Learns nothing at the scale that layers have by default."""

    def forward_update(self, x, base, bias=None, scale=1.0):
        return (
            nn.functional.linear(x, base, bias)
            if scale == 1
            else super().forward_update(x, base, bias, scale)
        )


class NeedsBias(LoRA):
    def forward(self, x, bias=None):
        return super().forward(x) + bias


class Drops(DCT):
    """Half of W in eval mode."""

    def weight(self):
        return super().weight() * (1.0 if self.training else 0.5)


class Noisy(DCT):
    def weight(self):
        w = super().weight()
        return w + 0.01 * torch.randn_like(w)


class Frozen(LoRA):
    """Right outputs, no gradient to one factor."""

    def forward(self, x, bias=None):
        return nn.functional.linear(
            nn.functional.linear(x, self.lora_A.detach()), self.lora_B, bias
        )


class Batched(SignedDCT):
    """Says that it can be built in batches, and cannot."""

    batch_key = DCT.batch_key


class NoCosines(SeparableSubspace):
    basis = Cosine()

    def side(self, n, axis):
        return haar_matrix(n, self.seed, axis)


class Anew(RandomOrthonormal):
    """Draws its sides from the global seed."""

    def side(self, n, axis):
        return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


class Stale(DCT):
    """Keeps W from before."""

    def forward(self, x, bias=None):
        if not hasattr(self, "kept"):
            self.kept = self.weight().detach()
        return nn.functional.linear(x, self.kept, bias)


class NeedsRows(LoRA):
    """Fails for an empty batch."""

    def forward(self, x, bias=None):
        return super().forward(x, bias) * (1 + 0 * x.detach().amax())


class Many(LoRA):
    """Another function of many rows."""

    def forward(self, x, bias=None):
        return super().forward(x, bias) * (1.1 if x.shape[:-1].numel() > 64 else 1.0)


class LowBase(LoRA):
    """Another function over a base of lower precision."""

    def forward_update(self, x, base, bias=None, scale=1.0):
        return super().forward_update(
            x, base, bias, scale * (2 if base.dtype == torch.bfloat16 else 1)
        )


class Seeds(Dense):
    """Draws the same coefficients for every layer."""

    def reset_parameters(self, std):
        torch.manual_seed(0)
        super().reset_parameters(std)


class SeedsBuffers(DCT):
    def reset_buffers(self):
        torch.manual_seed(self.seed)
        super().reset_buffers()


class OneStd(Dense):
    """Has one standard deviation, whatever it is asked for."""

    def reset_parameters(self, std):
        super().reset_parameters(0.3 if std else 0.0)


class Remembers(DCT):
    """Keeps W where there are no gradients."""

    def weight(self):
        if torch.is_grad_enabled():
            return super().weight()
        if not hasattr(self, "kept"):
            self.kept = super().weight()
        return self.kept


class OneLess(DCT):
    def __init__(self, m, n, ratio=0.5):
        super().__init__(m, n, coefficients=round(ratio * m * n) - 1)


class OneKey(DCT):
    """Says that all its maps are one batch."""

    def batch_key(self):
        return "mine"


class Wider(Dense):
    """Has rates that grow with the width."""

    @property
    def lr_mult(self):
        return (self.in_features / 64) ** 0.4


class Narrower(Dense):
    @property
    def lr_mult(self):
        return (self.in_features / 64) ** -0.4


WRONG = {
    Wider: ("rates serve every width", "goes as n^0.40"),
    Narrower: ("rates serve every width", "goes as n^-0.40"),
    NeedsRows: ("forward equals weight", "x of (0, 24)"),
    Many: ("forward equals weight", "x of (70, 24)"),
    LowBase: ("update of a low precision base", "y is off by"),
    Seeds: ("draws", "sets the global seed"),
    SeedsBuffers: ("draws", "moved the global random state"),
    OneStd: ("initial std", "0.02"),
    Remembers: ("weight is a function of its coefficients", "after the coefficients changed"),
    OneLess: ("count is the ratio", "num_trainable is 95, and 0.5 of 8 x 24 is 96"),
    OneKey: ("batches are of one shape", "(8, 24) and (16, 16) have one batch_key, mine"),
    Idle: ("forward update", "s = 1, a bias, x of (24,)"),
    NeedsBias: ("forward equals weight", "TypeError"),
    Drops: ("weight is a function of its coefficients", "W in eval mode is off by"),
    Noisy: ("weight is a function of its coefficients", "W of a second call"),
    Frozen: ("layers train their weight", "in training, a bias, no base, s = 1"),
    Batched: ("together is alone", "layer 2 of 3: y is off by"),
    NoCosines: ("a large weight is of its sides", "W, which should be L^T S R"),
    Anew: ("load under another seed", "the hash of what is fixed is"),
    Stale: ("layers keep their weight", "without gradients, after a change"),
}


@pytest.mark.parametrize("cls", WRONG, ids=lambda cls: cls.__name__)
def test_the_suite_finds_a_class_that_is_wrong(cls):
    contract, words = WRONG[cls]
    case = case_for(cls, {} if issubclass(cls, Dense) or cls is OneLess else arguments_of(cls))
    case.shapes = ((8, 24), (16, 16))
    found = failure(case, f"test_{contract.replace(' ', '_')}")
    assert found is not None and words in found
