"""Settings files: loading, overriding, refusing."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rs_lowconf.errors import SettingsError
from rs_lowconf.settings import Settings, load

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
    settings = load(path, ["data.bands=[B4, B3]", "run.seed=7", "data.dn_offset=-1000"])
    dump = yaml.safe_dump(settings.model_dump(mode="json"))
    assert load(write(tmp_path, dump)) == settings


def test_overrides_win_in_their_order(tmp_path: Path) -> None:
    """An override beats the file, a later one an earlier one, and values are YAML."""
    path = write(tmp_path, "run: {seed: 1}\ndata: {root: here}")
    settings = load(
        path, ["run.seed=2", "run.seed=3", "data.bands=[B02, B03]", "data.skip_bad=true"]
    )
    assert settings.run.seed == 3
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
    for section, field in Settings.model_fields.items():
        for name, own in field.annotation.model_fields.items():  # type: ignore[union-attr]  # a section
            choices = get_args(own.annotation)
            if choices and all(isinstance(choice, str) for choice in choices):
                assert getattr(getattr(Settings(), section), name) in choices


def test_settings_load_without_torch() -> None:
    """Loading settings imports neither torch nor numpy, so that --help answers at once."""
    program = (
        "import sys, rs_lowconf.settings, rs_lowconf.bands, rs_lowconf.errors, rs_lowconf.seeds;"
        "sys.exit(bool({'torch', 'numpy', 'rasterio'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
