r"""The autoencoder's geometry, and the export every model shares."""

import json

import numpy as np
import pytest
import torch

from hpcinv.errors import BadInput
from hpcinv.models import build, load, save
from hpcinv.models.grid_layers import GridConv

CONFIG = {
    "name": "autoencoder",
    "channels": 2,
    "grid": [13, 24],
    "latent_channels": 4,
    "stride": 4,
    "width": 12,
}


def _module(**fields):
    module = build({**CONFIG, **fields}, seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for p in module.parameters():
            torch.nn.init.normal_(p, std=0.1)
    return module.eval()


@pytest.mark.parametrize(
    ("grid", "stride", "latent"),
    [
        ((73, 144), 8, (10, 18)),
        ((13, 24), 4, (4, 6)),
        ((8, 9), 3, (3, 3)),
        ((5, 8), 2, (3, 4)),
        ((40,), 4, (1, 10)),
        ((), 8, (1, 1)),
        ((6, 40), (1, 8), (6, 5)),
    ],
)
def test_shapes_of_any_grid(grid, stride, latent):
    module = _module(grid=grid, stride=stride, context=2)
    x = torch.ones(2, 2, *grid)
    z = module.encode(x, torch.ones(2, 2))
    assert z.shape == (2, 4, *latent) == (2, *module.latent_shape)
    assert module.decode(z, torch.ones(2, 2)).shape == x.shape


@pytest.mark.parametrize("periodic", [True, False, "both"])
def test_channels_decoded_in_turn_are_those_decoded_together(periodic, monkeypatch):
    from hpcinv.models import autoencoder

    module = _module(channels=5, grid=(16, 24), periodic=periodic)
    z = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    whole = module.decode(z).detach()
    cells = (4 + 2 * (periodic == "both")) * (6 + 2 * bool(periodic))
    monkeypatch.setattr(autoencoder, "PATCHES", 2 * 4 * 2 * cells * 64)  # two channels
    folds = []
    fold = torch.nn.functional.fold
    monkeypatch.setattr(
        "torch.nn.functional.fold", lambda x, *a, **k: folds.append(x.shape) or fold(x, *a, **k)
    )
    with torch.no_grad():
        torch.testing.assert_close(module.decode(z), whole, atol=1e-6, rtol=1e-5)
    assert [shape[1] for shape in folds] == [128, 128, 64]


def test_turning_the_globe_turns_the_latent():
    module = _module(depth=1)
    with torch.no_grad():
        module.position.field.zero_()
    x = torch.randn(1, 2, 13, 24, generator=torch.Generator().manual_seed(0))
    z = module.encode(x)
    turned = module.encode(x.roll(8, dims=-1))
    torch.testing.assert_close(turned, z.roll(2, dims=-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        module.decode(turned), module.decode(z).roll(8, dims=-1), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("stride", [4, 3])
def test_a_torus_has_no_edge(stride):
    module = _module(grid=(24, 24), stride=stride, periodic="both", depth=1)
    with torch.no_grad():
        module.position.field.zero_()
    x = torch.randn(1, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    by = (stride, 2 * stride)
    turned = module.encode(x.roll(by, (-2, -1)))
    z = module.encode(x)
    torch.testing.assert_close(turned, z.roll((1, 2), (-2, -1)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        module.decode(turned), module.decode(z).roll(by, (-2, -1)), atol=1e-5, rtol=1e-4
    )


def test_across_a_pole_lies_what_is_half_a_turn_away():
    x = torch.randn(1, 1, 3, 6, generator=torch.Generator().manual_seed(0))
    conv = GridConv(1, 1, "poles")
    for row, edge, other in ((0, 0, 2), (2, 2, 0)):
        for column in range(3):  # one neighbour of each cell: to the north (south), and beside it
            with torch.no_grad():
                conv.conv.weight.zero_()
                conv.conv.bias.zero_()
                conv.conv.weight[0, 0, row, column] = 1
                found = conv(x)
            beyond = x[0, 0, edge].roll(3).roll(1 - column)
            torch.testing.assert_close(found[0, 0, edge], beyond, atol=0, rtol=0)
            inner = x[0, 0, 1].roll(1 - column)
            torch.testing.assert_close(found[0, 0, other], inner, atol=0, rtol=0)
    with pytest.raises(ValueError, match="no half"):
        _module(grid=(12, 20), periodic="poles")  # five cells of four columns
    # To turn the globe turns the latent and the state, and both poles are seen by it.
    module = _module(grid=(12, 24), periodic="poles", depth=1)
    with torch.no_grad():
        module.position.field.zero_()
    x = torch.randn(1, 2, 12, 24, generator=torch.Generator().manual_seed(0))
    z = module.encode(x)
    torch.testing.assert_close(
        module.encode(x.roll(8, dims=-1)), z.roll(2, dims=-1), atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        module.decode(z.roll(2, -1)), module.decode(z).roll(8, -1), atol=1e-5, rtol=1e-4
    )


def test_both_sides_see_the_fields_that_do_not_change():
    module = _module(static=1)
    x = torch.randn(1, 2, 13, 24, generator=torch.Generator().manual_seed(0))
    z = module.encode(x)
    flat = module.decode(z)
    module.static_fields[0, 6, 9] = 1.0
    assert not torch.equal(module.encode(x), z)
    # A cell's patch is two cells wide, and the convolution reaches its neighbours.
    change = (module.decode(z) - flat).abs().amax((0, 1))
    assert change[6, 9] > 0 and (change[:, 18:22] == 0).all()


def test_a_cell_writes_the_patch_around_it():
    module = _module()
    z = torch.zeros(1, *module.latent_shape)
    base = module.decode(z)
    z[0, 0, 1, 2] = 1.0
    touched = (module.decode(z) - base).abs().sum((0, 1)) > 1e-7
    rows, columns = np.nonzero(touched.numpy())
    # Cell (1, 2) covers points 4..7 and 8..11, shifted up by the rows shared out above; its
    # neighbours hear of it by a 3 x 3 convolution, and a patch reaches half a cell further.
    assert (columns.min(), columns.max()) == (2, 17)
    assert (rows.min(), rows.max()) == (0, 12)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"periodic": False, "grid": [9, 21]},
        {"context": 2},
        {"static": 2},
        {"periodic": "both", "grid": [12, 24]},
        {"periodic": "poles", "grid": [12, 24]},
        {"grid": [24]},
        {"grid": [9, 24], "stride": [3, 4]},
    ],
)
def test_points_decode_as_in_the_whole_field(fields):
    module = _module(**fields)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, 3, *module.latent_shape, generator=generator)
    context = torch.randn(6, 2, generator=generator) if module.context else None
    size = module.plane[0] * module.plane[1]
    point = torch.arange(3 * size) % size
    frame = torch.arange(3 * size) // size
    found = module.decode_points(z, module.plan_points(frame, point), context)
    whole = module.decode(z.flatten(0, 1), context).reshape(2, 3, 2, size)
    torch.testing.assert_close(
        found, whole.transpose(2, 3).reshape(2, 3 * size, 2), atol=1e-5, rtol=1e-4
    )


def test_calibrated_latents_have_unit_variance_and_decode_alike():
    module = _module()
    x = torch.randn(64, 2, 13, 24, generator=torch.Generator().manual_seed(0))
    before, raw = module(x)
    module.calibrate(raw)
    z = module.encode(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(module.decode(z), before, atol=1e-5, rtol=1e-4)


def test_latents_are_bounded():
    module = _module(bound=2.0)
    x = 1e4 * torch.randn(2, 2, 13, 24, generator=torch.Generator().manual_seed(0))
    assert float(module.raw_latent(x).detach().abs().max()) <= 2.0


def test_export_round_trip(tmp_path):
    module = _module()
    save(tmp_path / "run", module, CONFIG, {"note": 1})
    again = load(tmp_path / "run")
    x = torch.randn(1, 2, 13, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.encode(x), module.encode(x))
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    described = json.loads((tmp_path / "run" / "model.json").read_text())
    assert described["extra"] == {"note": 1}
    assert described["parameters"] == sum(p.numel() for p in module.parameters())


def test_bad_exports_are_named(tmp_path):
    with pytest.raises(BadInput, match="no trained model"):
        load(tmp_path)
    save(tmp_path, _module(), CONFIG, {})
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(BadInput, match="digest"):
        load(tmp_path)
    with pytest.raises(BadInput, match="Did you mean"):
        build({"name": "autoencodr"})
    with pytest.raises(BadInput, match="latent_channels"):
        build({**CONFIG, "latent_chanels": 3})
    with pytest.raises(BadInput, match="does not divide"):
        build({**CONFIG, "grid": [13, 23]})
