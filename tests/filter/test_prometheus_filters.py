"""Rule files of alerts: plain ones are read, templates are filled in."""

from __future__ import annotations

import sys

import pytest
from conftest import ROOT
from jinja2 import UndefinedError

sys.path.insert(0, str(ROOT / "plugins/filter"))
from prometheus import prometheus_rule_texts


def test_a_template_is_filled_in_and_a_plain_file_is_not(tmp_path):
    template, plain = tmp_path / "rule.yml.j2", tmp_path / "rule.yml"
    template.write_text("{% for kind in kinds %}\n- << kind >> > << threshold.age * 2 >>: {{ $labels.kind }}\n{% endfor %}\n")
    plain.write_text("<< is no template >>\n")
    alerts = [{"rule": str(template)}, {"rule": str(plain)}]
    assert prometheus_rule_texts(alerts, {"kinds": ["a", "b"], "threshold": {"age": 30}}) == [
        "- a > 60: {{ $labels.kind }}\n- b > 60: {{ $labels.kind }}\n",
        "<< is no template >>\n",
    ]


def test_an_unknown_threshold_is_an_error(tmp_path):
    (tmp_path / "rule.yml.j2").write_text("expr: up > << threshold.missing >>")
    with pytest.raises(UndefinedError, match="missing"):
        prometheus_rule_texts([{"rule": str(tmp_path / "rule.yml.j2")}], {"threshold": {}})
