"""GAN training: resume, balance, learning, and the checkpoint that search reads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from rs_lowconf.bands import BandSpec
from rs_lowconf.errors import DataError, JobError, ModelError
from rs_lowconf.gan.critic import critic_logit, fit_realism
from rs_lowconf.gan.figures import domain_distance, figures, overfit, sample
from rs_lowconf.gan.judge import train_judge
from rs_lowconf.gan.model import load_model, save_model
from rs_lowconf.gan.networks import Discriminator, Generator
from rs_lowconf.gan.resume import restore_state, save_state
from rs_lowconf.gan.sheet import write_sheets
from rs_lowconf.gan.steps import train
from rs_lowconf.gan.train import GanTraining, gradient_penalty
from rs_lowconf.settings import GanSettings, GateSettings
from rs_lowconf.types import Augmentation, Critic
from tests.fakes import FakeSource

CPU = torch.device("cpu")
BANDS = BandSpec(names=("B02", "B03", "B04", "B08", "B09"), level="L1C")
SMALL = GanSettings(
    width=8,
    critic_width=8,
    latent_global=4,
    latent_map=2,
    batch_size=8,
    images=240,
    penalty_every=4,
)


def fake_source(seed: int = 0, per_class: int = 6) -> FakeSource:
    return FakeSource(BANDS, ("a", "b", "c"), per_class, seed=seed)


def start(
    settings: GanSettings = SMALL, seed: int = 1, source: FakeSource | None = None
) -> GanTraining:
    return GanTraining(
        settings,
        source or fake_source(),
        augment_at=lambda strength: (lambda image, seed: image, lambda image, seed: image),
        strength=0.5,
        seed=seed,
        device=CPU,
        val=fake_source(9, 4),
    )


EVERYTHING = SMALL.model_copy(
    update={
        "overfit_target": 0.3,
        "blend_images": 120,
        "reconstruction": 1.0,
        "self_supervision": 1.0,
    }
)


@pytest.mark.parametrize("settings", [SMALL, EVERYTHING], ids=["plain", "everything"])
def test_a_resumed_training_equals_the_unbroken_one(
    tmp_path: Path, settings: GanSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 steps give bit for bit what 10 steps, a file and 10 more steps give."""
    monkeypatch.setattr("rs_lowconf.gan.train.CONTROL_IMAGES", 24)
    unbroken = start(settings)
    for _ in range(20):
        unbroken.step()
    first = start(settings)
    for _ in range(10):
        first.step()
    save_state(tmp_path / "state.safetensors", first)
    second = start(settings)
    restore_state(tmp_path / "state.safetensors", second)
    for _ in range(10):
        second.step()
    ours, theirs = second.state(), unbroken.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("target", "way"), [(0.0, 1), (0.99, -1)])
def test_overfitting_drives_the_augmentation(
    target: float, way: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the target the chance of augmentation rises step by step, below it falls."""
    monkeypatch.setattr("rs_lowconf.gan.train.CONTROL_IMAGES", 16)
    monkeypatch.setattr("rs_lowconf.gan.train.overfit", lambda *_: 0.5)
    asked: list[float] = []

    def augment_at(strength: float) -> tuple[Augmentation, Augmentation]:
        asked.append(strength)
        return (lambda image, seed: image), (lambda image, seed: image)

    training = GanTraining(
        SMALL.model_copy(update={"overfit_target": target}),
        fake_source(),
        augment_at=augment_at,
        strength=0.5,
        seed=1,
        device=CPU,
        val=fake_source(9, 4),
    )
    for _ in range(40):
        training.step()
    assert asked[:3] == pytest.approx([0.5 + 0.05 * way, 0.5 + 0.05 * way, 0.5 + 0.1 * way])
    assert training.strength == (1.0 if way > 0 else 0.0)


def test_the_domain_distance_tells_checkpoints_apart() -> None:
    """Tiles of the domain are equally near, whichever they are; the darker, the farther."""
    val = fake_source(9, 8)

    class Shifted(Generator):
        shift = 0.0

        def forward(self, z: Tensor, label: Tensor) -> Tensor:
            tiles = FakeSource(BANDS, ("a", "b", "c"), 40, seed=int(z[0, 0].abs() * 1e6))
            rows = [int(torch.nonzero(tiles.labels == k)[i % 40, 0]) for i, k in enumerate(label)]
            return tiles.batch(rows).image - self.shift

    generator = start().average
    generator.__class__ = Shifted

    def features(image: Tensor) -> Tensor:
        return 10 * torch.cat([image.mean((2, 3)), image.std((2, 3))], 1)

    near = [domain_distance(generator, val, features, seed) for seed in range(6)]
    assert max(near) - min(near) < 0.02
    far = []
    for shift in (0.05, 0.1):
        Shifted.shift = shift
        far.append(domain_distance(generator, val, features, 0))
    assert max(near) < far[0] < far[1]


def test_overfit_is_measured_against_held_out_tiles() -> None:
    """A discriminator that knows its training tiles by heart is at 1, a fair one near 0."""

    class Memory(Discriminator):
        def forward(self, components: Tensor, label: Tensor) -> Tensor:  # noqa: ARG002
            known = tiles.batch(range(len(tiles))).image
            known = self.components(known, torch.zeros_like(known[:1]))
            return (torch.cdist(components.flatten(1), known.flatten(1)).amin(1) < 1e-3).float()

    class Fair(Discriminator):
        def forward(self, components: Tensor, label: Tensor) -> Tensor:  # noqa: ARG002
            rough = components.diff(dim=-1).abs().mean((1, 2, 3))
            return (rough > 0.1).float()

    tiles, val, training = fake_source(), fake_source(9, 4), start()
    told = []
    for kind in (Memory, Fair):
        training.discriminator.__class__ = kind
        told.append(overfit(training.discriminator, training.average, tiles, val, 0))
    assert told == pytest.approx([1.0, 0.0])


def test_classes_come_apart_over_the_blend() -> None:
    """At first all classes draw the same tile, after the blend each its own."""
    training = start(SMALL.model_copy(update={"blend_images": 16}))
    z = torch.randn(1, training.generator.latent_dim).expand(3, -1)

    def spread() -> float:
        with torch.no_grad():
            return float(training.average(z, torch.arange(3)).std(0).max())

    training.step()
    assert spread() < 1e-6
    for _ in range(3):
        training.step()
    assert spread() > 1e-4


def test_redrawing_teaches_the_encoder() -> None:
    """A step with the weight moves the encoder, and the state of one without has none."""
    training = start(SMALL.model_copy(update={"reconstruction": 1.0}))
    before = training.state()["encoder.overall.weight"].clone()
    training.step()
    assert not torch.equal(before, training.state()["encoder.overall.weight"])
    assert not any(name.startswith("encoder") for name in start().state())


def test_self_supervision_moves_the_discriminator() -> None:
    """The discriminator takes another step than without; a state of one without has no helper."""
    with_it = start(SMALL.model_copy(update={"self_supervision": 10.0}))
    without = start()
    first = with_it.step().critic_loss
    assert first == without.step().critic_loss
    name = "discriminator.read.weight"
    assert not torch.equal(with_it.state()[name], without.state()[name])
    assert not any(name.startswith("redrawer") for name in without.state())


def test_training_ignores_and_keeps_the_global_random_state() -> None:
    """Steps do not depend on torch's global generator and leave it as it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = start().step()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(77)
    assert start().step() == one


def test_another_seed_is_another_training() -> None:
    """The run seed changes weights and draws."""
    assert start(seed=1).step() != start(seed=2).step()


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    """Resuming with another learning rate names the setting instead of mixing two trainings."""
    save_state(tmp_path / "state.safetensors", start())
    changed = start(SMALL.model_copy(update={"learning_rate": 0.1}))
    with pytest.raises(ModelError, match="learning_rate"):
        restore_state(tmp_path / "state.safetensors", changed)


def test_more_images_may_be_asked_for_on_resume(tmp_path: Path) -> None:
    """The length of the training is no property of its state."""
    save_state(tmp_path / "state.safetensors", start())
    restore_state(tmp_path / "state.safetensors", start(SMALL.model_copy(update={"images": 999})))


def test_an_empty_class_is_named() -> None:
    """A class without tiles cannot be learned, and the message says which."""
    source = fake_source()
    source.labels = torch.zeros_like(source.labels)
    with pytest.raises(DataError, match="b, c"):
        start(source=source)


def test_divergence_ends_the_training() -> None:
    """Weights that are no numbers end in one line that says what to change."""
    training = start()
    with torch.no_grad():
        training.generator.draw.weight.fill_(torch.nan)
    with pytest.raises(JobError, match="learning_rate"):
        next(train(training))


def test_the_judge_learns_without_touching_the_generator() -> None:
    """The gate's critic, of another seed, tells training tiles from an untrained generator's."""
    training = start()
    generator = training.average
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    settings = GateSettings(width=8, images=640, ema_images=100, gamma=1.0, learning_rate=2e-3)
    same = (lambda image, seed: image,) * 2
    records = list(train_judge(generator, fake_source(), settings, same, 1, CPU))
    assert records[-1].images == 640
    assert records[0].loss == pytest.approx(np.log(2), abs=0.3)
    assert np.mean([one.loss for one in records[-5:]]) < 0.2
    assert all(torch.equal(before[k], v) for k, v in generator.state_dict().items())
    # It ranks fresh tiles too, with the calibration that a stored critic carries.
    critic = fit_realism(records[-1].average, generator, fake_source(), 1)
    held_out = fake_source(9, 4)
    fake = sample(generator, held_out.labels, 5)
    real = critic.realism(held_out.batch(range(12)).image, held_out.labels)
    assert float(real.min()) > float(critic.realism(fake, held_out.labels).max())


def test_the_penalty_is_the_squared_gradient_norm() -> None:
    """R1 + R2 agrees with finite differences of the discriminator's logit."""
    training = start()
    critic = training.discriminator.double()
    components = torch.randn(1, 5, 16, 16, dtype=torch.float64)
    label = torch.tensor([1])
    penalty = float(gradient_penalty(critic, components, label).detach())
    total, step = 0.0, 1e-5
    with torch.no_grad():
        base = components.flatten()
        for i in range(len(base)):
            up, down = base.clone(), base.clone()
            up[i] += step
            down[i] -= step
            rise = critic(up.view_as(components), label) - critic(down.view_as(components), label)
            total += float(rise / (2 * step)) ** 2
    assert penalty == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
def test_training_learns_the_colours_of_the_classes() -> None:
    """After a short training the generated band means are nearer to the right class's."""
    settings = SMALL.model_copy(
        update={"images": 8 * 450, "ema_images": 200, "learning_rate": 2e-3}
    )
    training = start(settings)
    source = fake_source()
    label = torch.arange(3).repeat(20)
    real = source.batch(range(len(source))).image.mean((2, 3))
    means = torch.stack([real[source.labels == k].mean(0) for k in range(3)])

    def correct() -> float:
        fake = sample(training.average, label, 0).mean((2, 3))
        return float((torch.cdist(fake, means).argmin(1) == label).float().mean())

    for record in train(training):
        last = record
    assert last.images == 3600
    assert correct() > 0.8


def test_realism_is_calibrated_by_class() -> None:
    """A constant added to one class's logits does not move its realism."""
    training = start()
    for _ in range(30):
        training.step()
    source = fake_source()
    before = fit_realism(training.discriminator, training.average, source, 0)
    with torch.no_grad():
        # Adds the same to all logits of all classes: the bias of the whole-tile head.
        training.discriminator.whole.bias.add_(100.0)
    after = fit_realism(training.discriminator, training.average, source, 0)
    tiles = source.batch(range(6))
    label = source.labels[:6]
    torch.testing.assert_close(
        before.realism(tiles.image, label), after.realism(tiles.image, label), atol=2e-2, rtol=1e-2
    )
    assert isinstance(before, Critic)


def test_realism_ranks_as_the_logit_within_a_class() -> None:
    """Calibration is increasing in the discriminator's logit."""
    training = start()
    for _ in range(10):
        training.step()
    critic = fit_realism(training.discriminator, training.average, fake_source(), 0)
    image = fake_source(3, 8).batch([0, 3, 6, 9]).image
    label = torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        logit = critic_logit(training.discriminator, image, label)
        realism = critic.realism(image, label)
    assert torch.equal(logit.argsort(), realism.argsort())


def test_the_saved_model_draws_and_judges_as_the_trained_one(tmp_path: Path) -> None:
    """A round trip through the file keeps generator, critic and band description."""
    training = start()
    for _ in range(3):
        training.step()
    source = fake_source()
    critic = fit_realism(training.discriminator, training.average, source, 0)
    save_model(tmp_path / "gan.safetensors", training, critic, attribution="somebody")
    model = load_model(tmp_path / "gan.safetensors", CPU)
    with pytest.raises(ModelError, match="draws tiles of classes"):
        _ = model.masked
    z, label = torch.randn(2, model.generator.latent_dim), torch.tensor([0, 2])
    image = source.batch([0, 1]).image
    with torch.no_grad():
        assert torch.equal(model.generator(z, label), training.average(z, label))
        assert torch.equal(model.critic.realism(image, label), critic.realism(image, label))
    assert model.generator.bands == BANDS
    assert model.header["images"] == 24
    assert model.header["attribution"] == "somebody"


def test_sheets_show_real_and_generated_tiles(tmp_path: Path) -> None:
    """The sheet's left half holds the real tiles' pixels at known places."""
    source = fake_source()
    training = start()
    written = write_sheets(tmp_path, training.average, source, columns=3, seed=0, images=1234)
    assert [path.name for path in written] == [
        "true_colour_000001234.png",
        "near_infrared_000001234.png",
    ]
    sheet = np.asarray(Image.open(written[0]))
    tile = source.batch([0]).image[0, list(BANDS.index_of(("B04", "B03", "B02")))]
    expected = ((tile / 0.3).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    left = sheet.shape[1] - 2 * 3 * (64 + 2 * 4) - 16  # of tiles four times as large
    assert np.array_equal(sheet[46 : 46 + 64 : 4, left : left + 64 : 4], expected)


def test_sheets_without_visible_bands_show_the_first_band(tmp_path: Path) -> None:
    """Data without red, green and blue still get a sheet."""
    source = FakeSource(BandSpec(names=("B11", "B12"), level="L2A"), ("a", "b"), 4)
    training = start(source=source)
    written = write_sheets(tmp_path, training.average, source, columns=2, seed=0, images=0)
    assert [path.name for path in written] == ["B11_000000000.png"]


@pytest.mark.slow
def test_figures_see_what_a_generator_gets_wrong() -> None:
    """An untrained generator is far off; training brings spread and detail nearer to the reals'."""
    settings = SMALL.model_copy(
        update={"images": 8 * 300, "ema_images": 200, "learning_rate": 2e-3}
    )
    training, source, val = start(settings), fake_source(), fake_source(9, 4)
    before = figures(training.average, training.discriminator, source, val, 0)
    for _ in train(training):
        pass
    after = figures(training.average, training.discriminator, source, val, 0)
    assert before.keys() == after.keys()
    for name in ("band_std", "detail"):
        assert after[name] < before[name]
