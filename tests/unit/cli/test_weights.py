"""`sightline weights`, over a folder and over the store of a local suite."""

from __future__ import annotations

import json

import pytest
import torch

from sightline.cli import installed
from tests.support.packs import SQUEEZENET, tensors, write_weights


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(tensors(0.5), path)
    return path


@pytest.fixture
def suite(tmp_path):
    """The folder of a suite that is not running."""
    (tmp_path / "suite" / "nats").mkdir(parents=True)
    (tmp_path / "suite" / "nats" / "port").write_text("4222")
    return tmp_path / "suite"


@pytest.fixture(autouse=True)
def without_settings(monkeypatch, tmp_path):
    for name in ("SIGHTLINE_WEIGHTS_DIR", *installed.OF_THE_STORE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_pack_is_added_listed_and_verified_in_a_folder(sightline, file, tmp_path):
    added = sightline("weights", "add", file, "--network", "squeezenet1_1", "--folder", tmp_path / "packs")
    assert added.code == 0
    assert f"squeezenet1_1 is in the folder {tmp_path / 'packs'}: sha256 " in added.out
    listed = json.loads(sightline("weights", "list", "--folder", tmp_path / "packs", "--json").out)
    present = {row["network"]: row["present"] for row in listed["networks"]}
    assert present["squeezenet1_1"][0] == f"the folder {tmp_path / 'packs'}"
    assert sightline("weights", "verify", "--folder", tmp_path / "packs").code == 0
    write_weights(tmp_path / "packs" / SQUEEZENET.file_name, 1.0)
    verified = sightline("weights", "verify", "--folder", tmp_path / "packs")
    assert verified.code == 1
    assert "was replaced" in verified.out.replace("\n", " ")


def test_a_pack_goes_into_the_store_where_workers_look(sightline, file, suite):
    assert sightline("weights", "add", file, "--network", "squeezenet1_1", "--data", suite).code == 0
    names = sorted(path.name for path in (suite / "store" / "weights").iterdir())
    assert names == ["squeezenet1_1.json", "squeezenet1_1.safetensors"]
    document = json.loads(sightline("weights", "verify", "--data", suite, "--json").out)
    assert [(row["place"], row["described"], row["problem"]) for row in document["verified"]] == [
        ("the store", True, "")
    ]


def test_the_list_shows_every_network_with_its_licence(sightline):
    out = sightline("weights", "list").out
    assert "vit_base_patch16_siglip_256.v2_webli" in out
    for row in ("contrastive", "16-GB GPU", "Apache-2.0", "92.9 M", "23.41"):
        assert row in out


def test_what_must_not_be_added_is_refused_with_the_reason(sightline, file, tmp_path):
    outcome = sightline("weights", "add", file, "--folder", tmp_path / "packs", "--network", "resnet18")
    assert outcome.code == 1
    assert "mine.pth: these are not weights of resnet18" in outcome.err
    assert not (tmp_path / "packs").exists()


def test_without_a_place_the_error_says_how_to_name_one(sightline):
    outcome = sightline("weights", "verify")
    assert outcome.code == 1
    assert "pass --folder, or --data" in outcome.err


def test_networks_without_published_weights_cannot_be_fetched(sightline, tmp_path):
    outcome = sightline("weights", "pull", "mobilenet_v2_keras", "--folder", tmp_path / "packs", "--json")
    assert outcome.code == 1
    assert "none are published" in json.loads(outcome.out)["error"]


def test_a_caller_without_the_services_is_told_what_to_install(sightline, monkeypatch):
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    outcome = sightline("weights", "list")
    assert outcome.code == 1
    assert "pip install 'sightline-services[all]'" in outcome.err
