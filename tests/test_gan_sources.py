"""One generator for several sources of tiles, judged by critics on frozen features."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.data.source import open_split
from rs_lowconf.errors import DataError, ModelError
from rs_lowconf.gan.encode import comparison_of
from rs_lowconf.gan.feature_critic import MIXED, FeatureHeads
from rs_lowconf.gan.figures import FrozenDistance, sample
from rs_lowconf.gan.frozen import frozen_network, pooled, weights_of
from rs_lowconf.gan.model import load_model, save_model
from rs_lowconf.gan.networks import Discriminator
from rs_lowconf.gan.pyramid import PyramidGenerator
from rs_lowconf.gan.rendering import Rendering, clip_bytes
from rs_lowconf.gan.resume import CHECKPOINT, STATE, restore_state, resume, save_state
from rs_lowconf.gan.source_critics import WHOLE_FROM, SourcesCritic, SourceShape, build_critics
from rs_lowconf.gan.spectral import spectral_basis
from rs_lowconf.gan.steps import fallen
from rs_lowconf.gan.train import BalancedDraw
from rs_lowconf.gan.train_sources import SourcesTraining, TrainingSource, realism_of
from rs_lowconf.runs import read_checkpoint, write_checkpoint
from rs_lowconf.settings import EuroSatData, GanSettings
from rs_lowconf.types import Augmentation, Critic, TileGenerator
from tests.fakes import FakeSource

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")
BANDS = BandSpec(names=("B02", "B03", "B04", "B08", "B11"), level="L1C")
SCALE = 255 / 0.3
PICTURES = BandSpec(names=("B04", "B03", "B02"), level="L1C", scale=SCALE)
SHOWN = Rendering(bands=PICTURES, eight_bits=True, chroma="half")
SMALL = GanSettings(
    recipe="frozen",
    feature_side=32,
    width=4,
    critic_width=8,
    latent_global=4,
    latent_map=2,
    batch_size=4,
    images=64,
    penalty_every=2,
)


def sources(per_class: int = 6) -> list[TrainingSource]:
    """Return tiles with five bands, and others as pictures with three."""
    return [
        TrainingSource(
            name="few",
            tiles=FakeSource(BANDS, CLASSES, per_class),
            rendering=Rendering(bands=BANDS),
        ),
        TrainingSource(
            name="many", tiles=FakeSource(PICTURES, CLASSES, 2 * per_class), rendering=SHOWN
        ),
    ]


def still(strength: float) -> tuple[Augmentation, Augmentation]:
    """Return augmentations that change nothing."""
    return (lambda image, seed: image, lambda image, seed: image)


def start(**changes: object) -> SourcesTraining:
    return SourcesTraining(
        SMALL.model_copy(update=changes),
        sources(),
        augment_at=still,
        strength=0.5,
        seed=1,
        device=CPU,
    )


@pytest.fixture(scope="module")
def trained() -> SourcesTraining:
    """Return a training after a few steps."""
    training = start()
    for _ in range(6):
        training.step()
    training.settled()
    return training


def test_pictures_are_rendered_as_libjpeg_does(eurosat_root: Path) -> None:
    """EuroSAT's JPEGs: after rounding, what the rendering gives differs by rounding alone."""
    tiles = open_split(EuroSatData(root=eurosat_root), "val")
    scale = 254 / 0.275
    bands = BandSpec(names=("B04", "B03", "B02"), level="L1C", scale=scale, dn_offset=-1.0)
    image = tiles.batch(range(20)).image
    shown = Rendering(bands=bands, eight_bits=True, chroma="half")(image, tiles.bands)
    full = Rendering(bands=bands, eight_bits=True)(image, tiles.bands)
    apart = []
    for rendered, plain in zip(shown, full, strict=True):
        numbers = (plain * scale + 1).round().clamp(0, 255).to(torch.uint8)
        file = BytesIO()
        Image.fromarray(numbers.permute(1, 2, 0).numpy()).save(
            file, "JPEG", quality=100, subsampling="4:2:0"
        )
        stored = np.asarray(Image.open(file)).astype(float)
        apart.append((rendered * scale + 1).permute(1, 2, 0).numpy() - stored)
    assert np.abs(apart).mean() < 0.8
    # Luma and two colour differences are rounded to whole numbers, and so is the result.
    assert np.abs(apart).max() < 6
    assert np.abs(np.mean(apart)) < 0.1


@pytest.mark.parametrize(
    ("reflectance", "sign", "passes"),
    [
        (0.1, 1, True),
        (0.1, -1, True),
        (0.9, 1, True),
        (0.9, -1, False),
        (-0.1, -1, True),
        (-0.1, 1, False),
    ],
)
def test_rendering_passes_gradients_that_lead_inside(
    reflectance: float, sign: int, passes: bool
) -> None:
    """A step down the gradient may bring a pixel back among the bytes, never farther out."""
    image = torch.full((1, 5, 16, 16), reflectance, requires_grad=True)
    (sign * SHOWN(image, BANDS)).sum().backward()  # type: ignore[no-untyped-call]
    assert image.grad is not None
    assert (image.grad[:, 3:] == 0).all()
    assert ((image.grad[:, :3] * sign > 0) == passes).all()


def test_clipped_bytes_come_back_by_descent() -> None:
    """Descent on what the clipped picture shows brings all pixels to what is wanted."""
    numbers = torch.linspace(-900, 900, 50, requires_grad=True)
    wanted = torch.linspace(40, 215, 50)
    for _ in range(200):
        (gradient,) = torch.autograd.grad((clip_bytes(numbers) - wanted).square().sum(), numbers)
        numbers = (numbers - 0.1 * gradient).detach().requires_grad_()
    torch.testing.assert_close(clip_bytes(numbers), numbers)
    torch.testing.assert_close(numbers.detach(), wanted, atol=0.1, rtol=0)


def test_what_falls_along_a_cosine() -> None:
    """From 1, half of the way in the middle, down to its end, where it stays."""
    assert [fallen(done, 0.2) for done in (0.0, 0.5, 1.0, 7.0)] == pytest.approx([1, 0.6, 0.2, 0.2])


def test_penalties_become_weaker() -> None:
    """After `gamma_images` the gradient penalties have the final share of their weight."""
    late = start(gamma_images=16)
    weak = start(feature_gamma=3.0, gamma=25.0, final_gamma=1.0)
    strong = start(final_gamma=1.0)
    after = []
    for training in (late, weak, strong):
        training.images = 16  # as after four steps
        assert training.step().penalty is not None
        after.append(torch.cat([p.flatten() for p in training.critics[0].network.parameters()]))
    torch.testing.assert_close(after[0], after[1])
    assert (after[0] - after[2]).abs().max() > 1e-5


def test_a_picture_of_one_band_has_no_colour_to_lose() -> None:
    """Half the resolution of colour changes nothing where there is none."""
    grey = BandSpec(names=("B08",), level="L1C", scale=SCALE)
    image = torch.rand(2, 5, 16, 16, generator=torch.Generator().manual_seed(0)) / 4
    shown = Rendering(bands=grey, eight_bits=True, chroma="half")(image, BANDS)
    torch.testing.assert_close(shown, image[:, 3:4])


def test_folded_network_is_the_published_one() -> None:
    """Folding the normalisation away changes no class that the pretrained network names."""
    network = frozen_network("efficientnet_lite0")
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False, features_only=True)
    stored = torch.load(weights_of("efficientnet_lite0"), weights_only=True)
    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    whole.load_state_dict(dict(zip(whole.state_dict(), stored.values(), strict=True)))
    plain.load_state_dict(whole.state_dict(), strict=False)
    picture = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    expected = plain.eval()((picture - network.mean) / network.std)[1:]
    for a, b in zip(network(picture, 64), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
    assert pooled(network, picture).shape == (2, 2 * sum(network.channels))


def test_a_resumed_training_equals_the_unbroken_one(tmp_path: Path) -> None:
    """6 steps give bit for bit what 3 steps, a file and 3 more steps give."""
    frozen_network.cache_clear()  # whoever loads it draws the same weights of everything else
    unbroken = start()
    for _ in range(6):
        unbroken.step()
    first = start()
    for _ in range(3):
        first.step()
    # A checkpoint on the way must not change what follows.
    first.settled()
    save_state(tmp_path / "state.safetensors", first)
    second = start()
    restore_state(tmp_path / "state.safetensors", second)
    for _ in range(3):
        second.step()
    unbroken.settled(), second.settled()
    a, b = unbroken.state(), second.state()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_every_source_teaches_the_generator_and_no_critic_teaches_the_frozen_network() -> None:
    """Every critic of every source takes its turn, and the pretrained weights stay."""
    training = start()
    before = {k: v.clone() for k, v in frozen_network("efficientnet_lite0").state_dict().items()}
    heads = {c.name: [p.clone() for p in c.network.parameters()] for c in training.critics}
    judged: set[str] = set()
    for _ in range(4):
        judged |= set(training.step().losses or ())
    assert judged == {
        "many true_colour",
        "many native",
        "few near_infrared",
        "few native",
    }
    for critic in training.critics:
        moved = [
            not torch.equal(a, b)
            for a, b in zip(heads[critic.name], critic.network.parameters(), strict=True)
        ]
        assert any(moved), critic.name
    after = frozen_network("efficientnet_lite0").state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_source_of_few_tiles_has_a_native_critic_of_few_pixels() -> None:
    """Whole tiles are judged natively only where there are too many to learn by heart."""
    tiles = FakeSource(BANDS, CLASSES, 4)
    basis = spectral_basis(tiles.batch(range(12)).image, BANDS, 0.01)
    kinds = []
    for count in (WHOLE_FROM - 1, WHOLE_FROM):
        shape = SourceShape(name="x", rendering=Rendering(bands=BANDS), tiles=count)
        critics = build_critics(
            SMALL, [shape], [basis], classes=CLASSES, tile_size=16, device=CPU
        ).critics
        kinds.append([isinstance(c.network, Discriminator) for c in critics if c.mixer is None])
    assert kinds == [[False], [True]]


def test_a_class_without_tiles_is_refused() -> None:
    """Every source needs every class: the pairing loss compares within a class."""
    lacking = FakeSource(PICTURES, CLASSES, 2)
    lacking.labels = torch.zeros_like(lacking.labels)
    few, many = sources()
    many = TrainingSource(name=many.name, tiles=lacking, rendering=SHOWN)
    with pytest.raises(DataError, match="source many has no training tile of class b, c"):
        SourcesTraining(SMALL, [few, many], augment_at=still, strength=0.0, seed=0, device=CPU)


def test_a_tile_is_the_same_alone_and_in_any_batch(trained: SourcesTraining) -> None:
    """Batch statistics are fixed numbers outside training."""
    generator = trained.average
    assert isinstance(generator, TileGenerator)
    z = torch.randn(5, generator.latent_dim, generator=torch.Generator().manual_seed(3))
    label = torch.tensor([0, 1, 2, 0, 1])
    together = generator(z, label)
    alone = torch.cat([generator(z[i : i + 1], label[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_the_written_model_draws_and_judges_as_the_training_does(
    trained: SourcesTraining, tmp_path: Path
) -> None:
    """A round trip through gan.safetensors keeps tiles, realism, features and the comparison."""
    critic = realism_of(trained)
    save_model(tmp_path / "gan.safetensors", trained, critic, attribution="nobody")
    model = load_model(tmp_path / "gan.safetensors", CPU)
    assert isinstance(model.generator, PyramidGenerator)
    assert isinstance(model.critic, SourcesCritic)
    assert isinstance(model.critic, Critic)
    label = torch.arange(3)
    drawn = sample(trained.average, label, 0)
    assert torch.equal(sample(model.generator, label, 0), drawn)
    assert torch.equal(model.critic.realism(drawn, label), critic.realism(drawn, label))
    assert torch.equal(model.critic.features(drawn), critic.features(drawn))
    unlike = comparison_of(model.critic)
    same, other = unlike(drawn, drawn), unlike(drawn, drawn.flip(0))
    assert (same == 0).all()
    assert (other[[0, 2]] > 0).all()


def test_heads_see_how_much_tiles_of_a_class_differ() -> None:
    """In training the logits of equal tiles change with their group; afterwards with nothing."""
    torch.manual_seed(0)
    heads = FeatureHeads(3, 2, group=2)
    one, other = (tuple(torch.randn(1, MIXED, side, side) for side in (16, 8)) for _ in range(2))
    alike = tuple(torch.cat([part, part]) for part in one)
    apart = tuple(torch.cat([part, theirs]) for part, theirs in zip(one, other, strict=True))
    label = torch.tensor([1, 1])
    with torch.no_grad():
        assert not torch.allclose(heads(alike, label)[0], heads(apart, label)[0], atol=1e-4)
        assert torch.allclose(heads(alike, label)[0], heads(alike, label)[1], atol=1e-5)
        assert (heads.spread > 0).all()
        heads.eval()
        kept = heads.spread.clone()
        assert torch.allclose(heads(alike, label)[0], heads(apart, label)[0], atol=1e-5)
        assert torch.allclose(heads(one, label[:1])[0], heads(apart, label)[0], atol=1e-5)
        assert torch.equal(heads.spread, kept)


class Noted(BalancedDraw):
    """Draws tiles, and keeps the classes that it was asked for."""

    def __init__(self, draw: BalancedDraw) -> None:
        self.draw = draw
        self.asked: list[list[int]] = []

    def of(self, label: Tensor, rng: torch.Generator) -> list[int]:
        self.asked.append(label.tolist())
        return self.draw.of(label, rng)


def test_groups_are_of_one_class_and_resumed(tmp_path: Path) -> None:
    """Real tiles come in pairs of a class; 4 steps are bit for bit 2, a file and 2 more."""
    unbroken = start(group=2)
    noted = Noted(unbroken._draws[0])
    unbroken._draws[0] = noted
    for _ in range(4):
        unbroken.step()
    assert noted.asked
    assert all(label[0::2] == label[1::2] for label in noted.asked)
    first = start(group=2)
    for _ in range(2):
        first.step()
    save_state(tmp_path / STATE, first)
    second = start(group=2)
    resume(tmp_path, second)
    for _ in range(2):
        second.step()
    ours, theirs = second.state(), unbroken.state()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    with pytest.raises(ValueError, match="group 3 does not divide batch_size 4"):
        GanSettings(recipe="frozen", batch_size=4, group=3)


def test_a_training_goes_on_from_its_checkpoint_alone(
    trained: SourcesTraining, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its state it starts at the averaged weights, and says so; other settings refuse."""
    save_model(tmp_path / CHECKPOINT, trained, realism_of(trained), attribution="nobody")
    again = start()
    resume(tmp_path, again)
    assert again.images == trained.images > 0
    assert "state.safetensors is missing" in caplog.text
    for name, module in again.modules().items():
        wanted = trained.modules()["average" if name == "generator" else name].state_dict()
        assert all(torch.equal(value, wanted[k]) for k, value in module.state_dict().items()), name
    before = again.images
    again.step()
    assert again.images == before + SMALL.batch_size
    save_state(tmp_path / STATE, trained)
    caplog.clear()
    whole = start()
    resume(tmp_path, whole)
    assert all(torch.equal(value, trained.state()[name]) for name, value in whole.state().items())
    assert not caplog.text
    (tmp_path / STATE).unlink()
    with pytest.raises(ModelError, match="other settings of learning_rate"):
        resume(tmp_path, start(learning_rate=0.5))
    empty = start()
    resume(tmp_path / "nowhere", empty)
    assert empty.images == 0


def test_a_checkpoint_without_calibration_is_read(
    trained: SourcesTraining, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As the first trainings from several sources wrote them: realism is the plain logit."""
    path = tmp_path / "gan.safetensors"
    save_model(path, trained, realism_of(trained), attribution="nobody")
    tensors, header = read_checkpoint(path, "gan")
    old = {name: value for name, value in tensors.items() if not name.startswith("realism.")}
    assert len(old) == len(tensors) - 2
    write_checkpoint(path, "gan", old, header)
    model = load_model(path, CPU)
    assert isinstance(model.critic, SourcesCritic)
    label = torch.arange(3)
    drawn = sample(model.network, label, 0)
    assert torch.equal(model.critic.realism(drawn, label), model.critic.logit(drawn, label))
    assert "not calibrated" in caplog.text


def test_realism_is_calibrated_within_each_class(trained: SourcesTraining) -> None:
    """Real tiles look more real than generated ones, after few steps already."""
    critic = realism_of(trained)
    tiles = trained.sources[0].tiles
    real = critic.realism(tiles.batch(range(len(tiles))).image, tiles.labels)
    fake = critic.realism(sample(trained.average, tiles.labels, 5), tiles.labels)
    assert real.mean() > 0 > fake.mean()


def test_the_distance_that_chooses_checkpoints_sees_what_is_far(trained: SourcesTraining) -> None:
    """Untrained noise is farther from held-out tiles than these are from themselves."""
    val = FakeSource(PICTURES, CLASSES, 10, seed=7)
    distance = FrozenDistance(
        frozen_network("efficientnet_lite1"), val, rendering=SHOWN, white=0.3, most=30
    )

    near = distance.to(FakeSource(PICTURES, CLASSES, 10, seed=8).batch(range(30)).image, PICTURES)
    assert distance(trained.average, 0) > 4 * abs(near)
