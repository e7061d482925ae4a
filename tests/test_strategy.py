"""The strategy's kept templates say what templates say that are compiled anew."""

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from conftest import ROOT


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The directory that the strategy keeps templates in."""
    from ansible._internal._templating import _jinja_bits

    compile_anew = _jinja_bits.AnsibleEnvironment.compile
    monkeypatch.setattr(_jinja_bits.AnsibleEnvironment, "compile", compile_anew)  # put back afterwards
    namespace = {"__file__": str(tmp_path / "plugins/strategy/accelerated.py"), "__name__": "accelerated"}
    source = ROOT / "plugins/strategy/accelerated.py"
    exec(compile(source.read_text(), source, "exec"), namespace)
    assert _jinja_bits.AnsibleEnvironment.compile is not compile_anew, "this ansible-core is not known to the strategy"
    return tmp_path / "build/templates"


def rendered(text: str, **options):
    return Templar(DataLoader(), {"hosts": ["a", "b"], "n": 2}).template(trust_as_template(text), **options)


CASES = [
    ("{{ hosts | map('upper') | join(',') }}", "A,B"),
    ("{{ n + 1 }}", 3),
    ("{% for host in hosts %}\n{{ host }}\n{% endfor %}", "a\nb\n"),
    (r"{{ 'a\nb' }}", r"a\nb"),
]


@pytest.mark.parametrize(("text", "result"), CASES)
def test_the_second_says_what_the_first_said(kept, text, result):
    assert rendered(text) == result
    there = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert there
    assert kept.stat().st_mode & 0o077 == 0
    assert rendered(text) == result
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == there


def test_the_same_text_with_other_settings_is_another(kept):
    text = r"{{ 'a\nb' }}"
    assert rendered(text) == r"a\nb"
    assert rendered(text, escape_backslashes=False) == "a\nb"
    assert rendered(text) == r"a\nb"


def test_a_damaged_file_is_compiled_again(kept):
    assert rendered("{{ n * 3 }}") == 6
    for path in kept.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    assert rendered("{{ n * 3 }}") == 6
