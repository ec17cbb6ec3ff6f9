"""Late options as the build renders them: errors name the option, and so do warnings, once."""

import pytest

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.plan import Late
from packer_plugin_osc_chroot.template.engine import Scope, StringMap


def test_what_has_no_value_is_warned_of_once() -> None:
    told: list[str] = []
    data = {"SourceOMITags": {"Name": "web"}, "SourceOMI": "ami-1"}
    late = Late(Scope(), data, told.append)
    for _ in range(2):
        text = late.text("omi_description", "{{.SourceOMI}} {{.SourceOMITags.Release}}")
        assert text == "ami-1 <no value>"
    assert late.text("omi_description", "{{.SourceOMITags.Name}}") == "web"
    assert told == [
        'Warning: omi_description: .SourceOMITags.Release has no value, "<no value>" is in its place'
    ]


def test_tags_of_a_source_that_lacks_one() -> None:
    told: list[str] = []
    late = Late(Scope(), {"SourceOMITags": StringMap(Name="web")}, told.append)
    rendered = late.tags("tags", {"Of": "{{.SourceOMITags.Owner}}", "N": "{{.SourceOMITags.Name}}"})
    assert rendered == {"Of": "<no value>", "N": "web"}
    (warning,) = told
    assert warning.startswith('Warning: tags["Of"]: .SourceOMITags.Owner has no value')


def test_an_error_names_the_option() -> None:
    late = Late(Scope(), {}, print)
    with pytest.raises(BuildError, match=r'^tags\["a"\]: '):
        late.tags("tags", {"a": "{{.Nope}}"})


def test_keys_that_become_one_are_warned_of() -> None:
    told: list[str] = []
    late = Late(Scope(), {"SourceOMI": "ami-1"}, told.append)
    assert late.tags("tags", {"{{.SourceOMI}}": "x", "ami-1": "y"}) == {"ami-1": "y"}
    assert told == ['Warning: tags: "ami-1" is "ami-1", which is given before; this one counts']
