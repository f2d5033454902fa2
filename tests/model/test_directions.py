import pytest
import torch

from workbench import Generator, WorkbenchError
from workbench.model.directions import main_directions
from workbench.model.sampling import rng


@pytest.fixture
def generator(tiny):
    generator = Generator(tiny(z_dim=12, sn_g=False))
    generator.linear = torch.nn.Linear(12, 40)
    with torch.no_grad():  # spread the singular values, so that every direction is determined
        generator.linear.weight *= torch.linspace(1, 3, 12)
    return generator


def test_directions_are_the_principal_components_of_the_first_layer(generator):
    """As GANSpace samples them."""
    directions = main_directions(generator)
    assert directions.shape == (12, 12) and torch.allclose(directions @ directions.T, torch.eye(12), atol=1e-5)
    z = torch.randn(50_000, 12, generator=rng(3), dtype=torch.float64)
    w = generator.linear.weight.detach().double()
    outputs = z @ w.T
    values, vectors = torch.linalg.eigh(torch.cov(outputs.T))
    components = vectors.flip(1)[:, :12]  # of the outputs
    regressed = torch.linalg.lstsq(outputs @ components, z).solution  # GANSpace: back to z
    regressed = regressed / regressed.norm(dim=1, keepdim=True)
    assert ((regressed * directions).sum(1).abs() > 0.98).all()
    spread = (w @ directions.T.double()).norm(dim=0)  # standard deviations of the outputs, for a move by one of z
    assert torch.allclose(spread, values.flip(0)[:12].sqrt(), rtol=0.02) and (spread.diff() < 0).all()


def test_no_other_direction_changes_the_first_layer_more(generator):
    first, *_ = main_directions(generator)
    w = generator.linear.weight.detach()
    others = torch.nn.functional.normalize(torch.randn(1000, 12), dim=1)
    assert (w @ first).norm() > (w @ others.T).norm(dim=0).max()


def test_signs_are_fixed_and_nothing_changes(tiny):
    generator = Generator(tiny()).train()
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    directions = main_directions(generator)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items()) and generator.training
    assert torch.equal(main_directions(generator), directions)
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()


def test_a_network_that_diverged_has_none(generator):
    generator.linear.weight.data[3, 4] = torch.inf
    with pytest.raises(WorkbenchError, match="has diverged"):
        main_directions(generator)
