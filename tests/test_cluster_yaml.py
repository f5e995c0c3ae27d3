"""cluster.yaml passes the cluster launcher's own offline check, and says what the documentation promises of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parent.parent / "cluster.yaml"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))


def check(cluster: dict[str, Any]) -> dict[str, Any]:
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    return prepared


def test_the_launcher_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = check(cluster)
    assert {name: kind["max_workers"] for name, kind in prepared["available_node_types"].items()} == {
        "head": 0,
        "decode": 16,
        "gpu": 8,
    }


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda cluster: cluster.update(idle_timeout_minute=5), jsonschema.ValidationError),
        (lambda cluster: cluster.update(max_workers="many"), jsonschema.ValidationError),
        (lambda cluster: cluster["auth"].update(user="ubuntu"), jsonschema.ValidationError),
        (lambda cluster: cluster["available_node_types"]["gpu"].pop("resources"), jsonschema.ValidationError),
        (lambda cluster: cluster["available_node_types"]["gpu"].update(gpus=1), jsonschema.ValidationError),
        (
            lambda cluster: cluster["available_node_types"]["gpu"]["resources"].update(GPU=0.5),
            jsonschema.ValidationError,
        ),
        (lambda cluster: cluster.update(setup_commands="make setup"), TypeError),
        (lambda cluster: cluster.update(head_node_type="boss"), ValueError),
        (lambda cluster: cluster["available_node_types"]["gpu"].update(min_workers=99), ValueError),
    ],
)
def test_a_changed_key_fails(cluster: dict[str, Any], change: Change, error: type[Exception]) -> None:
    change(cluster)
    with pytest.raises(error):
        check(cluster)


def test_workers_are_spot_instances_and_go_when_idle(cluster: dict[str, Any]) -> None:
    workers = [kind for name, kind in cluster["available_node_types"].items() if name != cluster["head_node_type"]]
    assert [kind["min_workers"] for kind in workers] == [0, 0]
    assert [kind["node_config"]["InstanceMarketOptions"]["MarketType"] for kind in workers] == ["spot", "spot"]
    assert "InstanceMarketOptions" not in cluster["available_node_types"]["head"]["node_config"]
    assert cluster["idle_timeout_minutes"] > 0


def test_nothing_is_open_and_the_token_is_not_in_the_file(cluster: dict[str, Any]) -> None:
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["setup_commands"])
    assert any("--dashboard-host=127.0.0.1" in command for command in cluster["head_start_ray_commands"])
    assert "/home/ubuntu/.ray/auth_token" in cluster["file_mounts"]
    assert "RAY_AUTH_TOKEN" not in CLUSTER.read_text(encoding="utf-8")
