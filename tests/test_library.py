"""The library: what scripts and notebooks import."""

import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rs_lowconf as rl
from rs_lowconf import api, ask_tell, estimation, percents
from rs_lowconf.errors import DataError, JobError, ModelError, ReviewError, SettingsError
from rs_lowconf.estimate import describe_plan, result
from rs_lowconf.review import pictures
from rs_lowconf.search.report import Cost
from rs_lowconf.workflows.search import Searching

CLASSES = ("dark", "bright")
BANDS = ("B04", "B03", "B02")


class Brightness(nn.Module):
    """A classifier of which everything is known."""

    def forward(self, image: Tensor) -> Tensor:
        """Return logits of dark and bright."""
        light = 20 * (image.mean((1, 2, 3)) - 0.1)
        return torch.stack([-light, light], 1)


def brightness(image: Tensor) -> Tensor:
    """Return what it says, without gradients."""
    with torch.no_grad():
        said: Tensor = Brightness()(image)
    return said


@pytest.fixture(scope="module")
def generator() -> rl.Generator:
    """The embedded generator."""
    return rl.load_generator()


@pytest.fixture(scope="module")
def gate(generator: rl.Generator) -> rl.RealismGate:
    """Its gate."""
    return rl.load_gate(generator)


@pytest.fixture(scope="module")
def found(generator: rl.Generator, gate: rl.RealismGate) -> rl.SearchResult:
    """Five tiles of medium brightness."""
    target = rl.load_target(Brightness(), bands=BANDS, classes=CLASSES)
    return rl.Search(generator, target, gate, tau=0.6, count=5, seed=3).result()


@pytest.mark.parametrize(
    "module", [api, ask_tell, estimation, describe_plan, result, percents, pictures]
)
def test_examples_of_the_docstrings_run(
    module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each public function and class shows an example, and what it shows comes out."""
    monkeypatch.chdir(tmp_path)
    tests = doctest.DocTestFinder().find(module, extraglobs={"torch": torch, "np": np})
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    out: list[str] = []
    for test in tests:
        runner.run(test, out=out.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(out)
    assert runner.summarize(verbose=False).attempted > 0


def test_names_come_on_first_use_alone() -> None:
    """The package loads no torch and nothing heavy; all names that it lists are there."""
    code = (
        "import sys, rs_lowconf as rl\n"
        "heavy = {'torch', 'numpy', 'pandas', 'rasterio', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(rl.__all__) == set(dir(rl))\n"
        "for name in rl.__all__: getattr(rl, name)\n"
        "try: rl.no_such_name\n"
        "except AttributeError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "module 'rs_lowconf' has no attribute 'no_such_name'"


def test_a_tile_of_a_seed_depends_on_no_other(generator: rl.Generator) -> None:
    """The first tiles of a seed are the same, bit for bit, whatever the count."""
    few, many = generator.sample("River", 3, seed=7), generator.sample("River", 20, seed=7)
    assert torch.equal(few.image, many.image[:3])
    assert few.ids == many.ids[:3]
    assert len({tuple(tile.flatten().tolist()) for tile in many.image}) == 20
    assert set(many.names()) == {"River"}
    other = generator.sample("River", 3, seed=8)
    assert not torch.equal(few.image, other.image)


def test_conditions_come_in_turn(generator: rl.Generator) -> None:
    """Without a condition each has its turn; a list is taken in its order."""
    count = len(generator.conditions)
    assert generator.sample(count=count + 1).names() == (
        *generator.conditions,
        generator.conditions[0],
    )
    assert generator.sample(["River", "Forest"], 3).names() == ("River", "Forest", "River")
    with pytest.raises(SettingsError, match="draws no Rivers"):
        generator.sample("Rivers", 1)


def test_tiles_as_arrays_and_pictures(generator: rl.Generator) -> None:
    """Arrays and xarray hold the same numbers by the same band names; pictures are drawn."""
    tiles = generator.sample("Forest", 3)
    array = tiles.to_xarray()
    assert array.dims == ("tile", "band", "y", "x")
    channel = tiles.bands.names.index("B08")
    np.testing.assert_array_equal(array.sel(band="B08").values, tiles.numpy()[:, channel])
    assert array["label"].values.tolist() == ["Forest"] * 3
    figure = tiles.plot("near_infrared", columns=2)
    titles = [f"Forest\nsynthetic-0-{number}" for number in range(3)]
    assert [axes.get_title() for axes in figure.axes] == titles
    with pytest.raises(DataError, match="there is no composite ndvi"):
        tiles.plot("ndvi")


def test_the_gate_judges_tiles_by_themselves(generator: rl.Generator, gate: rl.RealismGate) -> None:
    """What it says of a tile of noise is that it does not pass; other bands are refused."""
    tiles = generator.sample(count=4)
    noise = torch.rand(tiles.image.shape, generator=torch.Generator().manual_seed(0))
    fields = ("bands", "ids", "classes", "label")
    unreal = rl.TileBatch(image=noise, **{name: getattr(tiles, name) for name in fields})
    assert not gate.judge(unreal).passes.any()
    bands = rl.BandSpec(names=BANDS, level="L1C")
    part = {name: getattr(tiles, name) for name in ("ids", "classes", "label")}
    with pytest.raises(ModelError, match="other bands"):
        gate.judge(rl.TileBatch(image=noise[:, :3], bands=bands, **part))


def test_what_is_found_is_what_the_target_says(found: rl.SearchResult) -> None:
    """Confidence and prediction are the target's own of the stored tiles; sums agree."""
    tiles, table = found.tiles, found.to_pandas()
    channels = list(tiles.bands.index_of(BANDS))
    said = Brightness()(tiles.image[:, channels]).softmax(1)
    assert len(found) == len(tiles) == len(table) == 5
    torch.testing.assert_close(said.amax(1), found.confidence)
    torch.testing.assert_close(said, found.probabilities)
    assert (found.confidence < 0.6).all()
    assert table["predicted"].tolist() == [CLASSES[i] for i in said.argmax(1).tolist()]
    assert table["condition"].tolist() == list(tiles.names())
    assert found.latents.shape == (5, sum(found.models.generator.net.latent_parts))
    assert found.report.search.accepted == 5
    assert isinstance(found.report.search.evaluations_per_accepted, Cost)


def test_the_same_seed_finds_the_same(
    generator: rl.Generator, gate: rl.RealismGate, found: rl.SearchResult, tmp_path: Path
) -> None:
    """In another folder, in two pieces; another target in that folder is refused."""
    target = rl.load_target(Brightness(), bands=BANDS, classes=CLASSES)
    search = rl.Search(generator, target, gate, tau=0.6, count=5, seed=3, folder=tmp_path)
    records = iter(search)
    while not (isinstance(record := next(records), Searching) and record.accepted == 2):
        assert record.total
    again = rl.Search(generator, target, gate, tau=0.6, count=5, seed=3, folder=tmp_path).result()
    assert torch.equal(again.tiles.image, found.tiles.image)
    assert torch.equal(again.latents, found.latents)

    other = rl.load_target(lambda image: brightness(image / 2), bands=BANDS, classes=CLASSES)
    with pytest.raises(SettingsError, match="other target"):
        rl.Search(generator, other, gate, tau=0.6, count=5, seed=3, folder=tmp_path)


@pytest.mark.parametrize("blind", [False, True])
def test_what_is_found_can_be_reviewed(found: rl.SearchResult, tmp_path: Path, blind: bool) -> None:
    """A package is written once, names no other target, and is read back with nothing decided."""
    package = rl.write_review(found, tmp_path / "out", blind=blind)
    reviewed = rl.read_review(package)
    assert len(reviewed.answers) == 5
    assert reviewed.decided == 0
    assert reviewed.label == ("blind" if blind else "confirm")
    assert len([*(tmp_path / "out" / "tiles").glob("*.tif")]) == 5
    page = (tmp_path / "out" / "report.html").read_text()
    assert "given in Python" in page
    assert "multispectral" not in page  # the target that settings name when they name none
    with pytest.raises(ReviewError, match="exists already"):
        rl.write_review(found, tmp_path / "out")


def test_models_from_elsewhere_say_what_they_read() -> None:
    """Bands and classes are needed; a model that does something else is refused."""
    with pytest.raises(SettingsError, match="needs bands and classes"):
        rl.load_target(Brightness())
    with pytest.raises(ModelError, match="shape"):
        rl.load_target(Brightness(), bands=BANDS, classes=("a", "b", "c"))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"tau": 1.5}, "tau"),
        ({"count": 0}, "count"),
        ({"tau": 0.6, "conditions": ["Rivers"]}, "Rivers"),
    ],
)
def test_values_that_do_not_fit_are_refused(
    generator: rl.Generator, gate: rl.RealismGate, values: dict[str, Any], named: str
) -> None:
    """A search says in one line which of its values is wrong, before it begins."""
    target = rl.load_target(Brightness(), bands=BANDS, classes=CLASSES)
    with pytest.raises(SettingsError, match=named):
        rl.Search(generator, target, gate, **values)


def test_a_target_is_what_a_section_of_settings_says() -> None:
    """The section `target` as a mapping; what it lacks is named, a missing checkpoint too."""
    assert rl.load_target({"kind": "embedded", "model": "visible"}).bands.names == (
        "B04",
        "B03",
        "B02",
    )
    with pytest.raises(SettingsError, match=r"target\.kind=onnx needs target\.bands"):
        rl.load_target({"kind": "onnx", "path": "model.onnx"})
    with pytest.raises(SettingsError, match="the target has no file"):
        rl.load_target({"kind": "trained"})


def test_wrong_words_are_errors_of_ours(generator: rl.Generator) -> None:
    """Of loaders too: a share, a size of batches, threads, a standard deviation, a count."""
    with pytest.raises(SettingsError, match="batch_size"):
        rl.load_target("visible", batch_size=0)
    with pytest.raises(SettingsError, match="threads"):
        rl.load_generator(threads=-1)
    with pytest.raises(SettingsError, match="false_rejection"):
        rl.load_gate(generator, false_rejection=0.9)
    with pytest.raises(SettingsError, match="std must be positive"):
        rl.load_target(Brightness(), bands=BANDS, classes=CLASSES, std=[0.0])
    with pytest.raises(SettingsError, match="0 tiles"):
        generator.sample("River", 0)


def test_a_folder_without_a_generator_is_refused(tmp_path: Path) -> None:
    """The message says what was expected."""
    with pytest.raises(ModelError, match="holds no generator"):
        rl.load_generator(tmp_path)


class TestAskTell:
    """A search whose answers come from outside."""

    SETTINGS = rl.SearchSettings.model_validate({"student": {"first": 16, "rounds": 0, "steps": 5}})

    def search(self, generator: rl.Generator, gate: rl.RealismGate, **more: object) -> rl.AskTell:
        """Return a search for tiles that are neither dark nor bright."""
        return rl.AskTell(
            generator,
            gate,
            bands=BANDS,
            classes=CLASSES,
            tau=0.9,
            count=2,
            seed=1,
            settings=self.SETTINGS,
            **more,  # type: ignore[arg-type]
        )

    def test_it_finds_what_a_target_would(
        self, generator: rl.Generator, gate: rl.RealismGate
    ) -> None:
        """The same tiles as with a black box of the same answers."""
        asked = 0
        with self.search(generator, gate) as search:
            while (tiles := search.ask()) is not None:
                asked += len(tiles)
                search.tell(brightness(tiles.image).numpy())
            assert search.ask() is None
        target = rl.load_target(brightness, bands=BANDS, classes=CLASSES)
        assert not target.differentiable
        direct = rl.Search(
            generator, target, gate, tau=0.9, count=2, seed=1, settings=self.SETTINGS
        ).result()
        assert torch.equal(search.result().tiles.image, direct.tiles.image)
        assert asked >= direct.report.search.evaluations

    def test_common_names_of_classes_reach_the_results(
        self, generator: rl.Generator, gate: rl.RealismGate, tmp_path: Path
    ) -> None:
        """Pages tell which predictions are right by them; a map that does not fit is refused."""
        means = {name: "bright" if name == "Highway" else "dark" for name in generator.conditions}
        with self.search(generator, gate, class_map=means, conditions=["Highway"]) as search:
            self.answered(search)
        found = search.result()
        rl.write_review(found, tmp_path / "run")
        page = (tmp_path / "run" / "report.html").read_text()
        assert "bright: Highway; dark: " in page or "dark: AnnualCrop" in page
        said = found.to_pandas()["predicted"].tolist()
        assert page.count("Highway taken for dark") >= ("dark" in said)
        assert "Highway taken for bright" not in page
        with (
            self.search(generator, gate, class_map={"River": "wet"}) as wrong,
            pytest.raises(SettingsError, match="maps River to wet"),
        ):
            self.answered(wrong)

    @staticmethod
    def answered(search: rl.AskTell) -> None:
        """Answer until the search ends."""
        while (tiles := search.ask()) is not None:
            search.tell(brightness(tiles.image).numpy())

    def test_order_is_kept(self, generator: rl.Generator, gate: rl.RealismGate) -> None:
        """Answers without a question and questions without an answer are refused."""
        with self.search(generator, gate) as search:
            with pytest.raises(JobError, match="no tiles wait"):
                search.tell(np.zeros((1, 2)))
            tiles = search.ask()
            assert tiles is not None
            with pytest.raises(JobError, match="have no answers"):
                search.ask()
            with pytest.raises(JobError, match="has not ended"):
                search.result()

    def test_wrong_answers_end_it(self, generator: rl.Generator, gate: rl.RealismGate) -> None:
        """What the search says of them is raised where the answers come from."""
        with self.search(generator, gate) as search:
            tiles = search.ask()
            assert tiles is not None
            search.tell(np.zeros((len(tiles), 5)))
            with pytest.raises(ModelError, match="shape"):
                search.ask()
