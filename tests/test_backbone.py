"""Frozen towers inside networks: moved with them, but neither trained, copied nor saved."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import tiny_towers
from golden import hash_fill
from mcil import McilError
from mcil.encoders.clip import normalise
from mcil.models.backbone import Backbone, pixels, samples, token_ids

SHA = "ab" * 32
IMAGES = hash_fill.inputs("image", (2, 3, 64, 64))


class Holder(nn.Module):
    """A network with a backbone and something to train."""

    def __init__(self, sha256=SHA):
        super().__init__()
        self.backbone = Backbone(tiny_towers.vision(), sha256)
        self.adapter = nn.Linear(64, 64)
        self.head = nn.Linear(24, 3)

    def forward(self, images):
        return self.head(self.backbone(images, lambda place, tokens, summary: self.adapter(tokens)))


def test_it_computes_what_its_tower_does_at_every_place():
    tower = tiny_towers.vision()
    backbone = Backbone(tower, SHA)
    assert (backbone.width, backbone.widths) == (tower.width, tower.widths)

    def adapt(place, tokens, summary):
        return 0.1 * tokens + summary[:, None] * (place + 1)

    torch.testing.assert_close(backbone(IMAGES, adapt), tower(IMAGES, adapt), rtol=0, atol=0)
    for place in range(3):
        whole = backbone.above(backbone.below(IMAGES, place), place)
        torch.testing.assert_close(whole, tower(IMAGES), rtol=0, atol=0)


def test_a_state_holds_of_it_a_checksum_alone():
    network = Holder()
    state = network.state_dict()
    own = {"adapter.weight", "adapter.bias", "head.weight", "head.bias"}
    assert set(state) == own | {"backbone._extra_state"}
    assert bytes(state["backbone._extra_state"].tolist()).hex() == SHA
    assert {name for name, _ in network.named_parameters()} == own
    other = Holder()
    other.load_state_dict({name: tensor.clone() for name, tensor in state.items()})  # strict
    torch.testing.assert_close(other(IMAGES), network(IMAGES), rtol=0, atol=0)


def test_a_state_of_other_weights_is_refused_in_one_line():
    with pytest.raises(McilError, match=r"trained with weights of sha256 abababab.*cdcdcdcd.*; put the file") as raised:
        Holder("cd" * 32).load_state_dict(Holder().state_dict())
    assert "\n" not in str(raised.value)


def test_copies_share_it():
    network = Holder()
    twin = copy.deepcopy(network)
    assert twin.backbone is network.backbone
    assert twin.head is not network.head


def test_it_stays_frozen_and_in_eval_mode_whatever_the_network_does():
    network = Holder()
    network.train().requires_grad_(True)
    assert not any(module.training for module in network.backbone.tower.modules())
    assert not any(parameter.requires_grad for parameter in network.backbone.tower.parameters())


def test_gradients_flow_through_it_to_adapters_and_inputs():
    network = Holder()
    before = [parameter.clone() for parameter in network.backbone.tower.parameters()]
    images = IMAGES.clone().requires_grad_(True)
    network(images).square().sum().backward()
    for tensor in (images, network.adapter.weight, network.head.weight):
        assert tensor.grad.abs().max() > 0
    for parameter, old in zip(network.backbone.tower.parameters(), before, strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)


def test_it_moves_with_the_network():
    network = Holder()
    narrow = network(IMAGES)
    network.to(torch.float64)
    assert {parameter.dtype for parameter in network.backbone.tower.parameters()} == {torch.float64}
    torch.testing.assert_close(network(IMAGES.double()).float(), narrow, rtol=1e-4, atol=1e-4)
    network.to("meta")
    assert {parameter.device.type for parameter in network.backbone.tower.parameters()} == {"meta"}


def test_stored_pixels_are_pictures_row_by_row():
    stored = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    tower = tiny_towers.vision()
    given = torch.from_numpy(stored.reshape(2, 1, 64 * 64, 3))
    expected = tower(normalise(torch.from_numpy(stored.transpose(0, 3, 1, 2).copy())))
    torch.testing.assert_close(Backbone(tower, SHA, pixels(tower.size))(given), expected)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((2, 1, 32 * 32, 3), r"32 pixels a side.*read 64; extract them with the option size=64"),
        ((2, 8, 64 * 64, 3), r"not \(2, 8, 4096, 3\); extract them with the encoder 'raw'"),
        ((2, 1, 64 * 63, 3), r"encoder 'raw'"),
        ((2, 1, 64 * 64, 4), r"encoder 'raw'"),
        ((2, 3, 64), r"encoder 'raw'"),
    ],
)
def test_other_pictures_are_refused_in_one_line(shape, said):
    with pytest.raises(McilError, match=said):
        Backbone(tiny_towers.vision(), SHA, pixels(64))(torch.zeros(shape, dtype=torch.uint8))


def test_stored_samples_keep_their_scale():
    stored = torch.tensor([[-32768, 0, 32767]], dtype=torch.int16)
    assert samples(stored).tolist() == [[-32768.0, 0.0, 32767.0]]
    assert samples(stored).dtype == torch.float32


def test_features_in_the_place_of_samples_are_refused_in_one_line():
    with pytest.raises(McilError, match=r"samples in whole numbers, not float32; extract it with the encoder 'raw'$"):
        samples(torch.zeros(2, 24))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32])
def test_token_ids_are_cut_behind_the_longest_text(dtype):
    stored = torch.tensor([[7, 1, 2, 8, 0, 0], [7, 8, 0, 0, 0, 0]], dtype=dtype)
    ids = token_ids(9)(stored)
    assert ids.tolist() == [[7, 1, 2, 8], [7, 8, 0, 0]]
    assert ids.dtype == torch.int64
    assert token_ids(9)(stored[:0]).shape == (0, 6)


@pytest.mark.parametrize("wrong", [9, -1, 0.5, float("nan")])
def test_other_numbers_than_token_ids_are_refused_in_one_line(wrong):
    stored = torch.tensor([[7, 1, 8, 0], [7, wrong, 8, 0]])
    with pytest.raises(McilError, match=r"token ids, whole numbers from 0 to 8; .*the encoder 'clip-tokens'") as raised:
        token_ids(9)(stored)
    assert "\n" not in str(raised.value)
