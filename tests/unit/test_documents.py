"""The documents hold together: links lead somewhere, what they say of the code is in the code."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from documents import PAGES, ROOT, Block, anchors, blocks, links, prose, text_of

from packer_plugin_osc_chroot.generate import generated
from packer_plugin_osc_chroot.localcloud.openapi import load_document
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import options_of

PACKAGE = ROOT / "packer_plugin_osc_chroot"
GUIDES = Path("docs/guides")
LANGUAGES = {"groovy", "hcl", "json", "shell", "text", "toml", "yaml"}
# The options of outscale-chroot, from the config spec of packer-plugin-outscale 1.6.1.
OUTSCALE_CHROOT = """
    omi_block_device_mappings omi_name omi_description omi_account_ids omi_groups omi_product_codes
    omi_regions skip_region_validation tags force_deregister force_delete_snapshot snapshot_tags
    snapshot_account_ids snapshot_groups access_key custom_endpoint_oapi insecure_skip_tls_verify
    mfa_code profile region secret_key skip_metadata_api_check token x509_cert_path x509_key_path
    chroot_mounts command_wrapper copy_files device_path nvme_device_path from_scratch mount_options
    mount_partition mount_path post_mount_commands pre_mount_commands root_device_name
    root_volume_size root_volume_type source_omi source_omi_filter root_volume_tags omi_boot_modes
    boot_mode product_codes global_permission omi_virtualization_type
"""


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links(page: Path) -> None:
    for link in links(page):
        if re.match(r"\w+:", link):
            assert re.fullmatch(r"https://[\w.-]+(/[^\s]*)?", link), link
            continue
        place, _, anchor = link.partition("#")
        target = (ROOT / page).parent / place if place else ROOT / page
        assert target.exists(), f"{page}: {link} leads nowhere"
        if anchor:
            assert anchor in anchors(target.resolve().relative_to(ROOT)), f"{page}: {link}"


def test_every_page_can_be_reached() -> None:
    seen: set[Path] = set()
    waiting = [Path("README.md")]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for link in links(page):
            target = ((ROOT / page).parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_relative_to(ROOT):
                waiting += {target.relative_to(ROOT)} - seen
    assert seen == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_blocks_are_fenced_and_have_a_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, block
    fences = re.findall(r"^ *```", text_of(page), re.MULTILINE)
    assert len(fences) == 2 * len(list(blocks(page)))


def all_blocks(*languages: str) -> Iterator[Block]:
    for page in PAGES:
        yield from (block for block in blocks(page) if block.language in languages)


def test_data_can_be_read() -> None:
    for block in all_blocks("json", "yaml"):
        assert yaml.safe_load(block.text), block


def test_the_policy_has_every_action_that_is_called() -> None:
    """What the builder's code names of the API's actions, and nothing else."""
    known = load_document().actions
    called = set()
    for path in PACKAGE.rglob("*.py"):
        if "localcloud" not in path.relative_to(PACKAGE).parts:
            called |= set(re.findall(r'"([A-Z][A-Za-z]+)"', path.read_text())) & set(known)
    (policy,) = [block for block in blocks(GUIDES / "first-omi.md") if "Statement" in block.text]
    (statement,) = json.loads(policy.text)["Statement"]
    assert statement["Action"] == [f"api:{action}" for action in sorted(called)]
    assert (statement["Effect"], statement["Resource"]) == ("Allow", ["*"])


def test_osc_cli_commands_are_calls_of_the_api() -> None:
    document = load_document()
    lines = [command for block in all_blocks("shell") for command in block.commands]
    calls = [line.split() for line in lines if line.startswith("osc-cli ")]
    assert calls
    for words in calls:
        assert words[1] == "api" and words[2] in document.actions, words
        named = {word[2:] for word in words[3:] if word.startswith("--")}
        assert named <= document.properties(f"{words[2]}Request"), words


def test_every_option_of_outscale_chroot_is_taken() -> None:
    ours = {spelling.name for row in options_of(Config) for spelling in row.spellings}
    assert set(OUTSCALE_CHROOT.split()) <= ours


def messages() -> set[str]:
    """Every text in the code, with … for what is put into it."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (
                    each.value if isinstance(each, ast.Constant) else "…" for each in node.values
                )
                found.add("".join(map(str, parts)))
    return found


def test_errors_are_those_of_the_code() -> None:
    known = messages()
    quoted = re.findall(r"^\| `(.+?)` \|", text_of(GUIDES / "errors.md"), re.MULTILINE)
    assert len(quoted) > 40
    assert [message for message in quoted if not any(message in text for text in known)] == []


def test_the_guide_to_ansible_is_the_example() -> None:
    """Which tests/e2e/test_ansible.py builds; what the example has besides is its own."""
    example = text_of(Path("examples/ansible.pkr.hcl"))
    (snippet,) = [block for block in blocks(GUIDES / "ansible.md") if block.language == "hcl"]
    values = re.findall(r"= (.+)", snippet.text)
    assert len(values) == 3
    for value in values:
        assert value.strip("[]") in example, value


def test_environment_variables_are_documented() -> None:
    shim = [path for path in ROOT.glob("shim/**/*.go") if not path.stem.endswith("_test")]
    sources = [*PACKAGE.rglob("*.py"), *shim]
    read = {
        name
        for path in sources
        for name in re.findall(r'"(OSC_CHROOT_[A-Z_]+)"', path.read_text(encoding="utf-8"))
    }
    table = text_of(GUIDES / "commands.md").split("## Environment variables")[1]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == read


def test_the_packages_that_ci_installs_are_those_that_contributors_do() -> None:
    def packages(page: str) -> set[str]:
        command = re.search(r"apt-get install (.+(?:\\\n.+)*)", text_of(Path(page)))
        assert command
        return {word for word in command[1].split() if word[0] not in "-\\"}

    # The linters of shell scripts are CI's: `make lint` does without.
    ci = packages(".ci/run") - {"shellcheck"}
    assert ci <= packages("CONTRIBUTING.md")


def test_every_example_is_built_by_a_test() -> None:
    """By name: in a test, or in a script whose result the tests use."""
    users = [*ROOT.glob("tests/**/*.py"), ROOT / "scripts" / "bootable-image"]
    texts = [path.read_text(encoding="utf-8") for path in users if path != Path(__file__)]
    examples = [path.name for path in (ROOT / "examples").iterdir() if path.is_file()]
    for name in examples:
        assert any(name in text for text in texts), f"nothing builds examples/{name}"


@pytest.mark.parametrize("path", sorted(generated()))
def test_generated_files_are_current(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == generated()[path], "run `make generate`"


def test_web_docs_are_pages_of_another_site() -> None:
    """No relative links, no titles, no notes to the generator: each page stands there alone."""
    made = [path for path in generated() if path.startswith(".web-docs/")]
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob(".web-docs/**/*.*")} == set(made)
    for page in filter(lambda path: path.endswith(".md"), made):
        for link in links(Path(page)):
            assert link.startswith(("https://", "/packer/integrations/", "#")), link
        assert not re.search(r"^# |<!--", prose(Path(page)), re.MULTILINE)
    (builder,) = [page for page in made if "/builder/" in page]
    assert "### Optional\n\n- `access_key`" in text_of(Path(builder))
