"""What a model says about itself: domains are the network's, whatever the folders are called."""

from __future__ import annotations

import pytest

from pix2gan.checkpoints.load import load_model
from pix2gan.training.export import export_model
from pix2gan.training.methods import find_method


@pytest.mark.parametrize(
    ("options", "domains"),
    [
        ({}, ("photo", "photo")),
        ({"sketch": "canny"}, ("sketch", "photo")),
        ({"sketch": "canny", "direction": "BtoA"}, ("photo", "sketch")),
    ],
)
def test_domains_are_what_the_generator_reads_and_makes(tiny, pairs, tmp_path, options, domains):
    config = tiny(**options, data=pairs / "B" if options else pairs)
    method = find_method(config.method)
    made = method(config)
    data, generator = method.open_data(config), made.networks["generator"]
    export_model(tmp_path / "model", generator, config, 3, data, made.domains("model"))
    _, model = load_model(tmp_path / "model")
    assert (model.preprocessing.domain_a, model.preprocessing.domain_b) == domains
    assert model.direction == config.direction
    assert model.training["steps"] == 3
