import pytest

from llmagentos.config import load_config
from llmagentos.config.shown import masked, shown


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://bob:pw@mlflow:5000", "http://***@mlflow:5000"),
        ("postgresql://bob:p@w/1@host/db", "postgresql://***@host/db"),
        ("https://token@host/", "https://***@host/"),
        (
            "postgresql://host/db?user=bob&password=pw&sslmode=require",
            "postgresql://host/db?user=bob&password=***&sslmode=require",
        ),
        (
            "API request to http://bob:pw@host/api failed: write to a@b.c",
            "API request to http://***@host/api failed: write to a@b.c",
        ),
        ("http://mlflow:5000", "http://mlflow:5000"),
        ("sqlite:////home/bob@work/mlflow.db", "sqlite:////home/bob@work/mlflow.db"),
        ("", ""),
    ],
)
def test_an_address_keeps_its_password_to_itself(text: str, safe: str):
    assert masked(text) == safe
    assert masked(ValueError(text)) == safe


def test_a_configuration_is_shown_without_its_password():
    config = load_config(None, ["registry.tracking_uri=http://bob:pw@mlflow"], environment={})
    assert shown(config) == config.model_dump(mode="json") | {
        "registry": config.registry.model_dump(mode="json") | {"tracking_uri": "http://***@mlflow"}
    }
