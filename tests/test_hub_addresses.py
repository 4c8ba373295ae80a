import pytest

from mlx_diffucoder.hub import parse_id


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("https://huggingface.co/a/b", ("a/b", None)),
        ("https://huggingface.co/a/b/", ("a/b", None)),
        ("http://hf.co/a/b?x=1", ("a/b", None)),
        ("https://huggingface.co/a/b/tree/v1.0", ("a/b", "v1.0")),
        ("https://huggingface.co/a/b/blob/main/config.json", ("a/b", "main")),
        ("https://huggingface.co/a/b/resolve/main/model.safetensors#x", ("a/b", "main")),
        ("https://huggingface.co/a", None),
        ("https://huggingface.co/datasets/a/b", None),
        ("https://huggingface.co/spaces/a/b/tree/main", None),
        ("https://example.org/a/b", None),
    ],
)
def test_the_hubs_address_of_a_model_names_it(address, found):
    assert parse_id(address) == found
