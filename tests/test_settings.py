"""Settings files: loading, overriding, refusing."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from rs_lowconf import strict_yaml
from rs_lowconf.errors import SettingsError
from rs_lowconf.settings import (
    EuroSatData,
    FolderData,
    NoData,
    ProcessTarget,
    Settings,
    keys_of,
    load,
    sections_of,
)
from rs_lowconf.settings.renamed import KEYS, VALUES
from tests.make_settings import needed

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    """Write a settings file."""
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_file_loads(path: Path) -> None:
    """Each file in configs/ is valid and says something."""
    assert load(path) != Settings()


def test_nothing_given_means_the_defaults(tmp_path: Path) -> None:
    """No file, an empty file and a file of empty text are the defaults."""
    assert load(None) == load(write(tmp_path, "")) == load(write(tmp_path, "# no")) == Settings()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_dump_and_load_are_inverse(path: Path, tmp_path: Path) -> None:
    """The resolved settings that a run folder keeps load to the same settings."""
    settings = load(path, ["run.seed=7"])
    dump = yaml.safe_dump(settings.model_dump(mode="json"))
    assert load(write(tmp_path, dump)) == settings


def test_overrides_win_in_their_order(tmp_path: Path) -> None:
    """An override beats the file, a later one an earlier one, and values are YAML."""
    path = write(tmp_path, "run: {seed: 1}\ndata: {kind: folder, root: here}")
    settings = load(
        path, ["run.seed=2", "run.seed=3", "data.bands=[B02, B03]", "data.skip_bad=true"]
    )
    assert settings.run.seed == 3
    assert isinstance(settings.data, FolderData)
    assert settings.data.root == Path("here")
    assert settings.data.bands == ("B02", "B03")
    assert settings.data.skip_bad is True


def test_an_override_may_hold_an_equals_sign() -> None:
    """Only the first equals sign separates."""
    assert load(None, ["data.attribution=a=b"]).data.attribution == "a=b"


@pytest.mark.parametrize(
    "override",
    ["", "run.seed", "=3", "run..seed=3", ".seed=3", "run.seed.deep=3", "nonsense=1"],
)
def test_a_wrong_override_is_refused(override: str, tmp_path: Path) -> None:
    """An override that is none, or points nowhere, is a settings error."""
    path = write(tmp_path, "run: {seed: 1}")
    with pytest.raises(SettingsError):
        load(path, [override])


@pytest.mark.parametrize(
    "override",
    [
        "run.seeed=1",
        "run.seed=-1",
        "run.seed=x",
        "run.seed=[",
        "data.tile_size=60",
        "data.level=L3",
        "data.kind=zarr",
        "data.val_share=0.5",
        "augment.zoom=0.9",
        "target.kind=timm",
        "search.tau=1",
    ],
)
def test_a_wrong_value_is_named_in_one_line(override: str) -> None:
    """A value that does not fit is an error of one line that names the setting."""
    with pytest.raises(SettingsError) as caught:
        load(None, [override])
    assert "\n" not in str(caught.value)
    assert override.partition(".")[0] in str(caught.value)


@pytest.mark.parametrize(
    "text", ["- a\n- b", "just text", "run: [", "a: b: c", "\tx: 1", "5", "nope: {}", "run: 3"]
)
def test_garbage_is_refused(text: str, tmp_path: Path) -> None:
    """A file that is no YAML, or no sections of settings, is a settings error of one line."""
    with pytest.raises(SettingsError) as caught:
        load(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder and bytes that are no text are settings errors."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00run")
    for path in (tmp_path / "none.yaml", tmp_path, binary):
        with pytest.raises(SettingsError, match=path.name):
            load(path)


@given(st.text(max_size=40))
def test_any_text_loads_or_is_a_settings_error(text: str) -> None:
    """No override makes anything else than settings or a settings error."""
    with suppress(SettingsError):
        assert isinstance(load(None, [f"data.attribution={text}", text]), Settings)


def test_every_number_is_checked_for_infinity() -> None:
    """Infinity, which JSON cannot hold and no formula survives, is not a scale or a share."""
    for name in ("data.max_nodata", "augment.shift", "augment.zoom", "data.val_share"):
        for value in (".inf", ".nan"):
            with pytest.raises(SettingsError):
                load(None, [f"{name}={value}"])


def test_settings_are_frozen() -> None:
    """Neither the tree nor a section can be changed after loading."""
    settings = load(None)
    with pytest.raises(ValidationError):
        settings.run.seed = 5
    with pytest.raises(ValidationError):
        settings.run = settings.run


def test_every_section_forbids_unknown_keys() -> None:
    """A misspelled key is refused in every section, none excepted."""
    for section in Settings.model_fields:
        with pytest.raises(SettingsError, match="unknown"):
            load(None, [f"{section}.no_such_key=1"])


def test_defaults_fit_their_own_types() -> None:
    """Each literal default is one of the choices, since pydantic does not check defaults."""
    for field in Settings.model_fields.values():
        for section in sections_of(field.annotation):
            for own in section.model_fields.values():
                choices = get_args(own.annotation)
                literal = choices and all(isinstance(choice, str) for choice in choices)
                if literal and not own.is_required():
                    assert own.get_default() in choices


def test_settings_load_without_torch() -> None:
    """Loading settings imports neither torch nor numpy, so that --help answers at once."""
    program = (
        "import sys, rs_lowconf.settings, rs_lowconf.bands, rs_lowconf.errors, rs_lowconf.seeds;"
        "sys.exit(bool({'torch', 'numpy', 'rasterio'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


# What versions of YAML read differently


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {dn_offset: -1000}\nrun: {seed: 1}\ndata: {tile_size: 32}\n",
         r"line 3: 'data' is given twice, first in line 1"),
        ("data:\n  dn_offset: -1000\n  scale: 1\n  dn_offset: 0\n",
         r"line 4: 'dn_offset' is given twice, first in line 2"),
        ("data:\n  mask_classes:\n    010: forest\n", r"line 3: 010 .* leading zeros, or '010'"),
        ("data:\n  mask_classes: {08: forest}\n", r"line 2: 08 .* without leading zeros, or '08'"),
        ("run: {seed: 0o17}\n", r"line 1: 0o17 "),
        ("run:\n  seed: 1_000\n", r"line 2: 1_000 .* write 1000, or '1_000' in quotes"),
        ("run: {seed: 1:30}\n", r"line 1: 1:30 .* is 90 or text.* write 90, or '1:30'"),
        ("data:\n  classes: [YES, NO]\n", r"line 2: YES .* is true or text.* write true, or 'YES'"),
        ("data:\n  classes:\n  - Forest\n  - NO\n",
         r"line 4: NO .* is false or text.* write false, or 'NO' in quotes for text"),
        ("data: {skip_bad: off}\n", r"line 1: off .* write false, or 'off'"),
        ("\nrun: {dir: 2024-01-31}\n", r"line 2: 2024-01-31 .* is a date or text.* write '2024-"),
        ("run: {dir: 2024-01-31 10:00:00}\n", r"line 1: 2024-01-31 10:00:00 .* a date"),
    ],
)  # fmt: skip
def test_ambiguous_yaml_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    """What would be lost or read in two ways is refused, with the line and what to write."""
    with pytest.raises(SettingsError, match=rf"settings\.yaml {message}"):
        load(write(tmp_path, text))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.classes=[NO, YES]", "NO without quotes"),
        ("run.dir=2024-01-31", "write '2024-01-31'"),
        ("run.seed=010", "010 without quotes"),
        ("data.mask_classes={1: a, 1: b}", "'1' is given twice"),
    ],
)
def test_ambiguous_overrides_are_refused(override: str, message: str) -> None:
    """The values of `--set` are read by the same rules as the file."""
    with pytest.raises(SettingsError, match=message):
        load(None, [override])


def test_quotes_settle_what_is_meant(tmp_path: Path) -> None:
    """In quotes each of these is the text that it shows, and plain numbers are numbers."""
    text = (
        "run: {dir: '2024-01-31', seed: 10}\n"
        "data: {kind: folder, dn_offset: -1e3, skip_bad: true, "
        "classes: ['NO', \"010\", '1:30', 'y']}\n"
    )
    settings = load(write(tmp_path, text))
    assert settings.run.dir == Path("2024-01-31")
    assert isinstance(settings.data, FolderData)
    assert settings.data.classes == ("NO", "010", "1:30", "y")
    assert (settings.run.seed, settings.data.dn_offset, settings.data.skip_bad) == (10, -1000, True)


@given(
    st.text(
        st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufeff"),
        min_size=1,
        max_size=20,
    )
)
@example("0E0")
@example("089")
@example("0o17")
def test_text_that_was_written_is_read_back(word: str) -> None:
    """Whatever text the settings of a run folder hold comes back as that text."""
    for flow in (False, True):
        written = strict_yaml.write({"a": [word]}, flow=flow)
        assert strict_yaml.read(written, "here").value == {"a": [word]}


@given(st.from_regex(r"[-+]?[0-9_:.eExobyYnN]{1,8}", fullmatch=True))
def test_a_plain_word_is_what_both_versions_of_yaml_read_or_is_refused(word: str) -> None:
    """What is accepted is PyYAML's value, or a number that PyYAML alone takes for text."""
    with suppress(SettingsError):
        found = strict_yaml.read(f"[{word}]", "here").value[0]
        by_pyyaml = yaml.safe_load(f"[{word}]")[0]
        if isinstance(found, float) and isinstance(by_pyyaml, str):
            assert found == float(word)
        else:
            assert (type(found), repr(found)) == (type(by_pyyaml), repr(by_pyyaml))


def test_aliases_and_merged_keys_keep_their_meaning(tmp_path: Path) -> None:
    """Anchors may be used again and merged; a value that contains itself is refused."""
    text = "gan: &a {width: 8, batch_size: 4}\nmask_gan: {<<: *a, width: 9}\n"
    settings = load(write(tmp_path, text))
    assert (settings.gan.width, settings.mask_gan.width) == (8, 9)
    assert settings.mask_gan.batch_size == 4
    with pytest.raises(SettingsError, match="contains itself"):
        load(write(tmp_path, "run: &a {dir: *a}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run:\n  seed: 1\n  dri: here\n", r"settings\.yaml line 3: setting run\.dri is unknown "
         r"\(did you mean run\.dir\?\)"),
        ("run: {seed: 1}\ndata:\n  kind: folder\n  classes:\n  - a\n  - 5\n",
         r"settings\.yaml line 6: setting data\.classes\.1 is 5, write text in quotes"),
        ("\ndata: {kind: images}\n",
         r"settings\.yaml line 2: data\.kind=images needs data\.images"),
        ("estimate: {labels: 0}\n7: x\n", r"line 2: setting 7"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    """The setting at fault is named, with its line in the file, and no other setting is blamed."""
    with pytest.raises(SettingsError, match=message) as caught:
        load(write(tmp_path, text))
    assert "target" not in str(caught.value)


def test_an_override_is_not_blamed_on_a_line_of_the_file(tmp_path: Path) -> None:
    """A wrong value of `--set` is told without the line of the value that it replaced."""
    path = write(tmp_path, "run: {seed: 1}\n")
    with pytest.raises(SettingsError, match=r"^setting run\.seed"):
        load(path, ["run.seed=x"])


# The home folder


def test_every_path_setting_knows_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """~ is expanded in each setting of paths, from the file and from `--set` alike."""
    monkeypatch.setenv("HOME", str(tmp_path))
    found = 0
    here = tmp_path / "x"
    for section, name, many, words in _path_settings(Settings):
        value, due = {
            "one": ("~/x", here),
            "several": ("[~/x]", (here,)),
            "by name": ("{a: ~/x}", {"a": here}),
        }[many]
        tree: object = load(None, [*words, f"{section}.{name}={value}"])
        for key in (*section.split("."), name):
            tree = getattr(tree, key)
        assert tree == due, (section, name)
        found += 1
    assert found >= 12
    target = load(None, [*_PROCESS, "target.command=[~/bin/python, ~/m.py, a~b]"]).target
    assert isinstance(target, ProcessTarget)
    assert target.command == (f"{tmp_path}/bin/python", f"{tmp_path}/m.py", "a~b")


_PROCESS = ("target.kind=process", "target.bands=[B02]", "target.classes=[a, b]")


def _path_settings(
    section: type[BaseModel], above: str = "", words: Sequence[str] = ()
) -> Iterator[tuple[str, str, str, Sequence[str]]]:
    """Yield section and name of each setting of paths, how many it holds, and its kind."""
    for name, field in section.model_fields.items():
        for inside in sections_of(field.annotation):
            key = f"{above}.{name}" if above else name
            yield from _path_settings(inside, key, needed(inside, key))
        if not sections_of(field.annotation) and re.search(r"\bPath\b", str(field.annotation)):
            form = str(field.annotation)
            many = "several" if "tuple" in form else "by name" if "dict" in form else "one"
            yield above, name, many, words


def test_an_unknown_home_folder_is_refused() -> None:
    """The home folder of a user whom the system does not know is a settings error."""
    with pytest.raises(SettingsError, match=r"setting run\.dir: .*no such user"):
        load(None, ["run.dir=~no-such-user-here/x"])


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("gan.recipe=frozen", "gan.depth=2"), "depth has no effect with recipe frozen"),
        (("gan.recipe=frozen", "gan.precision=bfloat16"), "precision has no effect"),
        (("gan.feature_side=64",), "feature_side has no effect with recipe native"),
    ],
)
def test_settings_of_another_recipe_are_refused(words: tuple[str, ...], name: str) -> None:
    """A setting that the chosen training does not read is no setting to pass over."""
    with pytest.raises(SettingsError, match=name):
        load(None, words)


def test_several_keys_of_another_kind_are_one_message(tmp_path: Path) -> None:
    """They are named once, with the line of the first."""
    path = write(tmp_path, "data:\n  root: x\n  level: L2A\n")
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert f"{path} line 2: settings data.root and data.level have no effect with" in str(
        caught.value
    )


def test_an_override_of_the_kind_leaves_the_rest_of_the_file_out(tmp_path: Path) -> None:
    """What only the file's kind has is left out, and what another override names is refused."""
    path = write(tmp_path, "data: {kind: folder, root: x, level: L2A, tile_size: 32}")
    assert load(path, ["data.kind=none"]).data == NoData(tile_size=32)
    assert load(path, ["data.kind=eurosat"]).data == EuroSatData(root=Path("x"), tile_size=32)
    with pytest.raises(SettingsError, match=r"data\.level has no effect with data\.kind=none"):
        load(path, ["data.kind=none", "data.level=L1C"])
    # A key of the same name in another section is another key.
    assert load(path, ["data.kind=none", "estimate.level=0.9"]).data == NoData(tile_size=32)
    # What overrides give as a whole is taken as it stands, whatever comes first.
    whole = ["data={kind: folder, root: y}", "data.kind=none"]
    with pytest.raises(SettingsError, match=r"data\.root has no effect with data\.kind=none"):
        load(path, whole)
    assert load(path, [whole[1], whole[0]]).data == FolderData(root=Path("y"))
    with pytest.raises(SettingsError, match="setting data: Input should be a valid dictionary"):
        load(path, ["data.kind=none", "data=5"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("review.label=blind", "setting review.label is called review.mode now"),
        ("target.train.epochs=3", "setting target.train is called classifier now"),
        ("search.classes=[a]", "setting search.classes is called search.conditions now"),
        ("estimate.design=strat", "setting estimate.design: strat is called stratified now"),
    ],
)
def test_former_names_are_refused_with_the_new_one(override: str, message: str) -> None:
    """Keys and values that were renamed say what they are called now."""
    with pytest.raises(SettingsError, match=re.escape(message)):
        load(None, [override])


def test_new_names_are_settings() -> None:
    """What a renamed key or value is said to be called now is read."""
    known = {*keys_of(Settings), *Settings.model_fields}
    assert {*KEYS.values()} <= known
    assert not {*KEYS} & known
    for key, names in VALUES.items():
        for new in names.values():
            load(None, [f"{key}={new}"])
