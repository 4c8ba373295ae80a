"""Adapters that are named by a Hub id, and the decoding that an adapter wants."""

import json
import shutil

import huggingface_hub.constants
import pytest

from mlx_diffucoder import GenerationConfig, load
from mlx_diffucoder.cli.model_option import ModelOption, load_named
from mlx_diffucoder.convert import ConvertConfig, convert, make_plan
from mlx_diffucoder.errors import CheckpointError, HubError

from .conftest import DATA
from .hub import COMMIT, local_hub

REPO = "someone/adapter"
BASE = DATA / "dream-a"
FILES = ("adapter_config.json", "adapter_model.safetensors")
FORCING = {"rule": "forcing:skip=0.8", "window": "forcing:block=8"}


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in FILES:
        shutil.copyfile(DATA / "d2f-a" / file, folder / file)
    return folder


@pytest.fixture
def served(adapter, tmp_path, monkeypatch):
    constants = huggingface_hub.constants
    with local_hub(REPO, adapter) as (endpoint, served):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served


def wanting(folder, decoding):
    path = folder / FILES[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"diffucoder_decoding": decoding}))


def test_a_hub_id_and_a_pinned_revision_are_fetched_once(served, monkeypatch):
    expected = load(BASE, adapter=DATA / "d2f-a")[0].model.layers[0].self_attn.q_proj.lora_a
    for name in (f"{REPO}@{COMMIT}", REPO):
        model, _ = load(BASE, adapter=name)
        assert (model.model.layers[0].self_attn.q_proj.lora_a == expected).all()
    assert served.weights == ["adapter_model.safetensors"]
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    load(BASE, adapter=REPO)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (lambda folder: (folder / FILES[0]).unlink(), CheckpointError, "has no adapter_config.json, so it is no adapter"),
        (lambda folder: (folder / FILES[1]).rename(folder / "adapter_model.bin"), CheckpointError, "only pickled weights"),
        (lambda folder: (folder / FILES[1]).unlink(), CheckpointError, "has no adapter_model.safetensors; name an adapter"),
    ],
)
def test_a_repository_without_an_adapter_is_refused_before_weights_are_fetched(served, adapter, fault, error, said):
    fault(adapter)
    with pytest.raises(error, match=said):
        load(BASE, adapter=REPO)
    assert served.weights == []


def test_an_adapter_that_is_not_there_is_named_before_the_model_is_fetched(tmp_path, monkeypatch):
    def no_hub(*args, **options):
        pytest.fail("asks for the model")

    monkeypatch.setattr("mlx_diffucoder.hub.fetch_model", no_hub)
    model, missing = "someone/model", str(tmp_path / "missing")
    for use in (
        lambda: load(model, adapter=missing),
        lambda: convert(model, tmp_path / "out", ConvertConfig(adapter=missing)),
        lambda: make_plan(model, ConvertConfig(adapter=missing)),
        lambda: load_named(ModelOption(model, None, False, True), dtype=None, adapter=missing),
    ):
        with pytest.raises(CheckpointError, match="missing: no such folder; an adapter is"):
            use()


def test_what_is_neither_a_folder_nor_a_hub_id_is_named(served, tmp_path):
    with pytest.raises(CheckpointError, match="no such folder; an adapter is"):
        load(BASE, adapter="./nothing")
    with pytest.raises(CheckpointError, match=r"dream-b: has no adapter_config\.json; an adapter is a folder with"):
        load(BASE, adapter=DATA / "dream-b")
    with pytest.raises(CheckpointError, match=r"config\.json: is not a folder; an adapter is"):
        load(BASE, adapter=DATA / "d2f-a" / FILES[0])
    with pytest.raises(CheckpointError, match="is an adapter: name its base with --model"):
        load(REPO)
    with pytest.raises(HubError, match="has no revision other"):
        load(BASE, adapter=f"{REPO}@other")


def test_the_decoding_that_an_adapter_names_is_the_default_and_stays_when_it_is_fused(adapter, tmp_path):
    wanting(adapter, FORCING)
    convert(BASE, tmp_path / "fused", ConvertConfig(adapter=adapter))
    for model, _ in (load(BASE, adapter=adapter), load(tmp_path / "fused")):
        config = GenerationConfig().for_model(model)
        assert {"rule": config.rule, "window": config.window} == FORCING
        assert GenerationConfig(rule="threshold:tau=0.9").for_model(model).window == "sliding"
        assert GenerationConfig(window="whole").for_model(model).rule == "threshold:tau=0.9"
        assert GenerationConfig(steps=9).for_model(model).window == "whole"


def test_a_published_adapter_is_known_by_its_name(adapter):
    published = adapter.rename(adapter.parent / "D2F_DiffuCoder_Instruct_7B_Lora")
    model, _ = load(BASE, adapter=published)
    assert GenerationConfig().for_model(model).window == "forcing:block=16,add=0.9"
    config = GenerationConfig.preset("published", published=model.published).for_model(model)
    assert (config.temperature, config.rule, config.window) == (0, "forcing:skip=0.9", "forcing:block=32,add=0.3,decoded=0.95")


@pytest.mark.parametrize("decoding", ["forcing", {"rule": "forcing"}, {"rule": "forcing", "window": "tree"}])
def test_a_decoding_that_cannot_be_is_named_with_its_file(adapter, decoding):
    wanting(adapter, decoding)
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: diffucoder_decoding is .* which cannot be decoded with"):
        load(BASE, adapter=adapter)
