"""The generator of tiles with given masks: laws, losses, training, model file, fidelity, sheets."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from rs_lowconf.bands import BandSpec
from rs_lowconf.colours import PALETTE
from rs_lowconf.data.augment import mask_gan_augmentations
from rs_lowconf.errors import DataError, JobError, ModelError
from rs_lowconf.gan.beside import BesideRecord
from rs_lowconf.gan.condition import MaskBank, bank_of
from rs_lowconf.gan.feature_critic import MIXED, FeatureHeads
from rs_lowconf.gan.figures import sample
from rs_lowconf.gan.judge import train_mask_judge
from rs_lowconf.gan.mask_figures import mask_figures, region_features
from rs_lowconf.gan.mask_losses import (
    class_loss,
    class_weights,
    generated_loss,
    generator_loss,
    mix,
    mix_loss,
    random_regions,
)
from rs_lowconf.gan.mask_networks import MaskDiscriminator
from rs_lowconf.gan.mask_quality import mask_fidelity, mask_spectral_figures, overlaps
from rs_lowconf.gan.mask_train import MaskGanTraining
from rs_lowconf.gan.masks import MaskCritic, MaskedGenerator, by_mask
from rs_lowconf.gan.model import load_critic, load_generator, load_model, save_critic, save_model
from rs_lowconf.gan.paired_probe import PairedProbe, probe_masks
from rs_lowconf.gan.resume import CHECKPOINT, restore_state, resume, save_state
from rs_lowconf.gan.sheet import write_sheets
from rs_lowconf.gan.steps import train
from rs_lowconf.generators import finish
from rs_lowconf.masks import UNKNOWN
from rs_lowconf.search.calibration import critic_parts
from rs_lowconf.search.gate import GatePart, scores_one_by_one
from rs_lowconf.settings import (
    AugmentSettings,
    GateSettings,
    MaskGanSettings,
    RunSettings,
    Settings,
)
from rs_lowconf.types import (
    Critic,
    MaskSource,
    TargetModel,
    TileGenerator,
    TileSource,
)
from rs_lowconf.workflows.train_gan import train_mask_gan
from tests.fakes import FakeMasks, FakeSegmenter, FakeSource

CPU = torch.device("cpu")
BANDS = BandSpec(names=("B02", "B03", "B04", "B08"), level="L2A")
SMALL = MaskGanSettings(
    width=8, critic_width=8, latent_global=4, latent_map=2, images=240, penalty_every=4, bank=5
)


FROZEN = SMALL.model_copy(update={"recipe": "frozen", "feature_side": 32})
COMPOSITES = {"tiles true_colour", "tiles near_infrared"}
"""The critics on frozen features of `BANDS`."""


def start(settings: MaskGanSettings = SMALL, seed: int = 1, tile_size: int = 32) -> MaskGanTraining:
    turn, augment = mask_gan_augmentations(AugmentSettings())
    source = FakeMasks(BANDS, 12, tile_size=tile_size)
    return MaskGanTraining(settings, source, turn=turn, augment=augment, seed=seed, device=CPU)


@pytest.fixture(scope="module")
def trained() -> MaskGanTraining:
    """Return a training after 120 steps, which has learned the colours of both classes."""
    # With the default penalty, made for 12 bands of real tiles, two plain colours sway for long.
    steady = {"gamma": 0.1, "mix_weight": 10.0}
    fast = {"images": 960, "ema_images": 200, "learning_rate": 2e-3, **steady}
    training = start(SMALL.model_copy(update=fast), tile_size=16)
    for _ in train(training, "mask_gan"):
        pass
    return training


def stirred() -> MaskGanTraining:
    """Return a training whose blocks are no longer the identity, without the time of training."""
    training = start()
    dice = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for module in (training.average, training.discriminator):
            for weight in module.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=dice))
    return training


def test_the_fakes_obey_the_protocols() -> None:
    """What these tests learn from is what the data side gives."""
    assert isinstance(FakeMasks(BANDS, 1), MaskSource)
    assert not isinstance(FakeMasks(BANDS, 1), TileSource)
    assert isinstance(FakeSegmenter(BANDS), TargetModel)


def test_masks_move_with_their_tiles() -> None:
    """After symmetries and shifts the mask still says of every pixel what its colour says."""
    source = FakeMasks(BANDS, 6)
    source.image = (source.masks == 1)[:, None] * 0.3 + torch.full((6, 4, 32, 32), 0.1)
    for augment in mask_gan_augmentations(AugmentSettings(brightness=0, band_gain=0)):
        image, mask = augment(source.image, source.masks, 5)
        assert not torch.equal(image, source.image)
        known = mask != UNKNOWN
        assert torch.equal(image[:, 2][known] > 0.2, (mask == 1)[known])
        assert torch.equal(augment(source.image, source.masks, 5)[1], mask)


def test_gains_leave_masks_alone() -> None:
    """What dims a tile does not touch its mask, and no settings change nothing."""
    source = FakeMasks(BANDS, 4)
    _, augment = mask_gan_augmentations(AugmentSettings(shift=0, probability=1))
    image, mask = augment(source.image, source.masks, 5)
    assert torch.equal(mask, source.masks)
    assert not torch.allclose(image, source.image)
    for idle in mask_gan_augmentations(
        AugmentSettings(flip=False, shift=0, brightness=0, band_gain=0)
    ):
        assert torch.equal(idle(source.image, source.masks, 5)[0], source.image)


@pytest.mark.parametrize("side", [32, 48])
def test_the_generator_is_a_function_of_its_arguments(side: int) -> None:
    """Equal arguments give equal tiles, in any batch; latent parts and mask all matter."""
    source = FakeMasks(BANDS, 3, tile_size=side)
    identity = (lambda image, mask, seed: (image, mask),) * 2
    training = MaskGanTraining(
        SMALL, source, turn=identity[0], augment=identity[1], seed=1, device=CPU
    )
    generator = training.average.eval()
    dice = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in generator.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=dice))
    z = torch.randn(3, generator.latent_dim, generator=dice)
    assert generator.latent_parts == (4, 2 * (side // 8) ** 2)
    with torch.no_grad():
        together = generator(z, source.masks)
        assert together.shape == source.image.shape
        assert torch.equal(together, generator(z, source.masks))
        alone = generator(z[1:2], source.masks[1:2])
        torch.testing.assert_close(alone, together[1:2], atol=1e-5, rtol=1e-4)
        for part in (slice(0, 4), slice(4, None)):
            other = z.clone()
            other[:, part] += 1
            assert (generator(other, source.masks) - together).abs().max() > 1e-4
        unknown = torch.full_like(source.masks, UNKNOWN)
        assert (generator(z, unknown) - together).abs().max() > 1e-4


def test_gradients_reach_the_latent() -> None:
    """A search gets a slope in every latent through a generator and critic of whole numbers."""
    training = stirred()
    bank = bank_of(FakeMasks(BANDS, 4))
    generator = MaskedGenerator(training.average, bank)
    critic = MaskCritic(training.discriminator, bank)
    z, label = torch.randn(2, generator.latent_dim, requires_grad=True), torch.tensor([3, 1])
    (slope,) = torch.autograd.grad(critic.realism(generator(z, label), label).sum(), z)
    assert (slope != 0).float().mean() > 0.95
    assert all(weight.grad is None for weight in training.average.parameters())


def test_class_weights_make_classes_equal() -> None:
    """Each class present has the same total weight, and the mean weight of known pixels is 1."""
    mask = torch.tensor([[[0, 0, 0, 1], [UNKNOWN, UNKNOWN, 0, 0]]])
    weight = class_weights(mask, 3)
    assert weight.tolist() == pytest.approx([0.6, 3.0, 0.0])
    assert float(class_weights(torch.full((1, 4, 4), UNKNOWN), 3).sum()) == 0


def test_unknown_pixels_do_not_count() -> None:
    """No loss moves with the logits of unknown pixels, and all equal a loop over the others."""
    dice = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (2, 8, 8), generator=dice)
    mask[:, 2:5] = UNKNOWN
    logits = torch.randn(2, 3, 8, 8, generator=dice)
    other = torch.where(mask[:, None] == UNKNOWN, 50 * torch.randn(2, 3, 8, 8), logits)
    mixed = torch.randn(2, 3, 8, 8, generator=dice)
    for a, b in (
        (class_loss(logits, mask), class_loss(other, mask)),
        (generated_loss(logits, mask), generated_loss(other, mask)),
        (generator_loss(logits, mixed, mask), generator_loss(other, mixed, mask)),
        (generator_loss(mixed, logits, mask), generator_loss(mixed, other, mask)),
        (mix_loss(logits, mixed, mask), mix_loss(other, mixed, mask)),
    ):
        assert torch.equal(a, b)
    weight = class_weights(mask, 2)
    own, fake, n = 0.0, 0.0, 0
    for tile, row, column in np.argwhere((mask != UNKNOWN).numpy()).tolist():
        told = logits[tile, :, row, column].log_softmax(0)
        k = int(mask[tile, row, column])
        own, fake, n = own - float(weight[k] * told[k]), fake - float(weight[k] * told[2]), n + 1
    assert float(class_loss(logits, mask)) == pytest.approx(own / n, rel=1e-4)
    assert float(generated_loss(logits, mask)) == pytest.approx(fake / n, rel=1e-4)
    assert float(class_loss(logits, torch.full_like(mask, UNKNOWN))) == 0


def test_generated_tiles_shall_be_as_clear_as_real_ones() -> None:
    """Besides realness, a class costs by how much clearer or less clear it is than real pixels."""
    mask = FakeMasks(BANDS, 2).masks
    right = F.one_hot(torch.where(mask == UNKNOWN, 0, mask), 3).movedim(3, 1).float()
    # The likeliest real class is surer and surer; the log-odds of being real stay as they are.
    clear = [right * sure for sure in (0.5, 1.0, 2.0)]
    for logits in clear:
        logits[:, 2] = logits[:, :2].logsumexp(1)
    loss = [float(generator_loss(logits, clear[1], mask)) for logits in clear]
    assert loss[1] == pytest.approx(np.log(2), rel=1e-5)
    told = [np.log1p(np.exp(-sure)) for sure in (0.5, 1.0, 2.0)]
    assert loss[0] - loss[1] == pytest.approx(told[0] - told[1], rel=1e-3)
    assert loss[2] - loss[1] == pytest.approx(told[1] - told[2], rel=1e-3)


def test_mixed_tiles_keep_whole_classes() -> None:
    """Within a tile, all pixels of a class come from the same side."""
    mask = FakeMasks(BANDS, 40).masks
    region = random_regions(mask, 2, torch.Generator().manual_seed(0))
    for tile, own in zip(mask, region, strict=True):
        assert all(len(own[tile == k].unique()) == 1 for k in (0, 1, UNKNOWN))
    assert len({*region[:, 1, 0].tolist()}) == 2
    mixed = mix(torch.ones(40, 3, 32, 32), torch.zeros(40, 3, 32, 32), region)
    assert torch.equal(mixed[:, 1] == 1, region)


@pytest.mark.parametrize("settings", [SMALL, FROZEN], ids=["native", "frozen"])
def test_a_resumed_training_equals_the_unbroken_one(
    tmp_path: Path, settings: MaskGanSettings
) -> None:
    """8 steps give bit for bit what 4 steps, a file and 4 more steps give."""
    unbroken, first, second = start(settings), start(settings), start(settings)
    for _ in range(8):
        unbroken.step()
    for _ in range(4):
        first.step()
    save_state(tmp_path / "state.safetensors", first)
    restore_state(tmp_path / "state.safetensors", second)
    for _ in range(4):
        second.step()
    ours, theirs = second.state(), unbroken.state()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    other = start(settings.model_copy(update={"mix_weight": 5.0}))
    with pytest.raises(ModelError, match="mix_weight"):
        restore_state(tmp_path / "state.safetensors", other)


def test_a_mask_of_one_class_is_judged_as_that_class() -> None:
    """Heads on features say of a mask that is one class everywhere what they say of the class.

    With two classes, what is said of a position depends on the mask there.
    """
    heads = FeatureHeads(3, 2)
    dice = torch.Generator().manual_seed(0)
    scales = tuple(torch.randn(3, MIXED, side, side, generator=dice) for side in (8, 4))
    label = torch.tensor([0, 1, 2])
    mask = torch.tensor([0, 1, UNKNOWN])[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(heads(scales, mask), heads(scales, label))
    halves = mask.clone()
    halves[:, :, 16:] = 1
    mixed = heads(scales, halves)
    assert torch.allclose(mixed[1], heads(scales, label)[1])
    assert (mixed - heads(scales, label))[[0, 2]].abs().min() > 1e-4


def test_critics_on_features_judge_beside_the_discriminator() -> None:
    """All composites of the bands have one; they and the generator learn, mixers do not."""
    plain, training = start(), start(FROZEN)
    before = {name: value.clone() for name, value in training.state().items()}
    native, record = plain.step(), training.step()
    assert native.losses is None
    assert set(record.losses or {}) == COMPOSITES
    # Before the first update the discriminator says the same, and the generator loses to more.
    assert record.critic_loss == native.critic_loss
    assert record.generator_loss > native.generator_loss + 0.5
    after = training.state()
    assert not torch.equal(plain.generator.draw.weight, training.generator.draw.weight)
    for name in COMPOSITES:
        assert not torch.equal(before[f"{name}.first.0.weight"], after[f"{name}.first.0.weight"])
    assert all(torch.equal(before[name], after[name]) for name in after if name.startswith("mixer"))
    assert training.step().losses != record.losses


def test_a_training_with_critics_on_features_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """The checkpoint holds them; the model that is loaded draws and judges without."""
    training, again = start(FROZEN), start(FROZEN)
    training.step()
    bank = bank_of(FakeMasks(BANDS, 4))
    critic = MaskCritic(deepcopy(training.discriminator), bank)
    save_model(tmp_path / CHECKPOINT, training, critic, attribution="somebody")
    resume(tmp_path, again)
    assert again.images == training.images
    ours, theirs = again.feature_modules(), training.feature_modules()
    assert set(ours) > COMPOSITES
    for name, module in ours.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, theirs[name].state_dict()[key])
    z, label = torch.randn(2, training.generator.latent_dim), torch.tensor([0, 2])
    model = load_model(tmp_path / CHECKPOINT, CPU)
    assert torch.equal(model.generator(z, label), MaskedGenerator(training.average, bank)(z, label))


def test_settings_of_critics_on_features_need_their_recipe_and_bands() -> None:
    """A setting without effect is refused, and so are tiles without a composite."""
    with pytest.raises(ValueError, match="feature_gamma has no effect with recipe native"):
        MaskGanSettings(feature_gamma=3.0)
    assert MaskGanSettings(recipe="frozen", feature_gamma=3.0).feature_gamma == 3.0
    few = FakeMasks(BandSpec(names=("B02", "B08"), level="L2A"), 4)
    still = (lambda image, mask, seed: (image, mask),) * 2
    with pytest.raises(DataError, match="no source of tiles has the bands of a composite"):
        MaskGanTraining(FROZEN, few, turn=still[0], augment=still[1], seed=1, device=CPU)


def test_training_keeps_the_global_random_state() -> None:
    """Steps do not depend on torch's global generator; another seed is another training."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = start().step()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(77)
    assert start().step() == one != start(seed=2).step()


def test_bfloat16_trains_alike() -> None:
    """Mixed precision gives nearly the same losses and finite weights."""
    half = start(SMALL.model_copy(update={"precision": "bfloat16"}))
    assert half.step().critic_loss == pytest.approx(start().step().critic_loss, rel=0.02)
    half.step()
    assert all(bool(value.isfinite().all()) for value in half.state().values())


def test_divergence_ends_the_training() -> None:
    """Weights that are no numbers end in one line that says what to change."""
    training = start()
    with torch.no_grad():
        training.generator.draw.weight.fill_(torch.nan)
    with pytest.raises(JobError, match="mask_gan"):
        next(train(training, "mask_gan"))


@pytest.mark.slow
def test_generated_tiles_obey_their_masks(trained: MaskGanTraining) -> None:
    """After a short training the second class is much brighter than the first, as in real tiles."""
    held_out = FakeMasks(BANDS, 20, seed=9, tile_size=16)
    fake = sample(trained.average, held_out.masks, 0).mean(1)
    gap = fake[held_out.masks == 1].mean() - fake[held_out.masks == 0].mean()
    assert 0.1 < float(gap) < 0.3
    told = mask_figures(trained.average, trained.discriminator, held_out, 0)
    fresh = start(tile_size=16)
    before = mask_figures(fresh.average, fresh.discriminator, held_out, 0)
    assert told["agreement_real"] > 0.95
    assert told["agreement_generated"] > 0.9
    assert told["region_distance"] < before["region_distance"]
    assert told["class_mean"] < 0.5 * before["class_mean"]


def test_region_features_are_those_of_a_loop() -> None:
    """Mean and deviation of each class's pixels agree with a selection by the mask."""
    source = FakeMasks(BANDS, 3)
    found = region_features(source.image, source.masks, 2).view(3, 2, 3, 4)
    for tile in range(3):
        for k in range(2):
            own = source.image[tile][:, source.masks[tile] == k]
            torch.testing.assert_close(found[tile, k, 0], own.mean(1))
            torch.testing.assert_close(
                found[tile, k, 1], own.std(1, correction=0), atol=1e-3, rtol=1e-2
            )


def test_generator_and_critic_of_a_bank_obey_the_protocols() -> None:
    """A search sees masks as classes; everything is the same alone and in a batch."""
    training, bank = stirred(), bank_of(FakeMasks(BANDS, 4))
    generator = MaskedGenerator(training.average, bank)
    critic = MaskCritic(training.discriminator, bank)
    part: GatePart = critic.agreement
    assert isinstance(generator, TileGenerator)
    assert isinstance(critic, Critic)
    assert generator.classes == critic.classes == bank.names == FakeMasks(BANDS, 4).ids
    assert generator.pixel_classes == ("low", "high")
    label = torch.tensor([2, 0, 3])
    z = torch.randn(3, generator.latent_dim)
    image = generator(z, label)
    assert torch.equal(image, training.average(z, bank.masks[label].long()))
    for score in (critic.realism, part):
        alone = torch.cat([score(image[i : i + 1], label[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(score(image, label), alone, atol=1e-4, rtol=1e-3)
    assert critic.features(image).shape == (3, 24 + 32)


def test_realism_is_mean_and_worst_tenth() -> None:
    """Realism agrees with sorting the known pixels' log-odds in numpy."""
    training = stirred()
    source = FakeMasks(BANDS, 2)
    source.masks[0, 5:20] = UNKNOWN
    critic = MaskCritic(training.discriminator, bank_of(source))
    still = torch.zeros(1, 4, 32, 32)
    logits = training.discriminator(training.discriminator.components(source.image, still))
    odds = (logits[:, :2].exp().sum(1).log() - logits[:, 2]).numpy()
    for i, told in enumerate(critic.realism(source.image, torch.arange(2)).tolist()):
        own = np.sort(odds[i][source.masks[i].numpy() != UNKNOWN])
        worst = own[: int(np.ceil(0.1 * len(own)))]
        assert told == pytest.approx((own.mean() + worst.mean()) / 2, rel=1e-3, abs=1e-4)


def test_the_trained_critic_tells_wrong_masks(trained: MaskGanTraining) -> None:
    """A tile agrees with its own mask and not with that of the other class."""
    source = FakeMasks(BANDS, 2, seed=9, tile_size=16)
    source.masks = torch.stack([torch.zeros(16, 16), torch.ones(16, 16)]).long()
    source.image = 0.1 + 0.2 * source.masks[:, None] + 0.02 * torch.randn(2, 4, 16, 16)
    critic = MaskCritic(trained.discriminator, bank_of(source))
    right, wrong = torch.tensor([0, 1]), torch.tensor([1, 0])
    assert float(critic.agreement(source.image, right).min()) > 0.9
    assert float(critic.agreement(source.image, wrong).max()) < 0.1


def test_held_out_tiles_are_scored_under_their_own_masks() -> None:
    """The gate's calibration runs on a source without labels through a view of it."""
    training, held_out = stirred(), FakeMasks(BANDS, 5, seed=9)
    critic = MaskCritic(training.discriminator, bank_of(FakeMasks(BANDS, 4)))
    own = critic.on(bank_of(held_out))
    view = by_mask(held_out)
    assert isinstance(view, TileSource)
    scores = scores_one_by_one(
        {"realism": own.realism, "masks": own.agreement},
        view,
        channels=(0, 1, 2, 3),
        classes=own.classes,
        device=CPU,
    )
    label = torch.arange(5)
    with torch.no_grad():
        wanted = torch.stack(
            [score(held_out.image, label) for score in (own.realism, own.agreement)], 1
        )
    torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-3)


def test_banks_refuse_what_is_no_mask() -> None:
    """Unknown classes, masks without a known pixel, doubled names and other sizes are errors."""
    masks = torch.zeros(2, 32, 32, dtype=torch.uint8)
    names = ("a", "b")
    for bad, called in (
        (masks + 2, names),
        (masks + UNKNOWN, names),
        (masks, ("a", "a")),
        (masks, ("a",)),
    ):
        with pytest.raises(DataError):
            MaskBank(masks=bad, names=called, classes=("low", "high"))
    for other in (
        MaskBank(masks=masks[:, :16, :16], names=names, classes=("low", "high")),
        MaskBank(masks=masks, names=names, classes=("low", "other")),
    ):
        with pytest.raises(DataError, match="expected low, high"):
            MaskedGenerator(start().average, other)


def test_a_bank_leaves_out_empty_masks_and_takes_no_more_than_asked() -> None:
    """The masks keep the order of the source; the choice is one of the seed."""
    source = FakeMasks(BANDS, 10)
    source.masks[3] = UNKNOWN
    assert bank_of(source).names == tuple(n for i, n in enumerate(source.ids) if i != 3)
    some = bank_of(source, most=4, seed=1)
    assert len(some) == 4
    assert some.names == bank_of(source, most=4, seed=1).names
    for name, mask in zip(some.names, some.masks, strict=True):
        assert torch.equal(mask.long(), source.masks[source.ids.index(name)])


def test_the_saved_model_draws_and_judges_as_the_trained_one(tmp_path: Path) -> None:
    """A round trip through the file keeps generator, critic, masks and their names."""
    training, bank = stirred(), bank_of(FakeMasks(BANDS, 4))
    critic = MaskCritic(training.discriminator, bank)
    save_model(tmp_path / "gan.safetensors", training, critic, attribution="somebody")
    model = load_model(tmp_path / "gan.safetensors", CPU)
    assert model.condition.masks is not None
    before = MaskedGenerator(training.average, bank)
    z, label = torch.randn(2, before.latent_dim), torch.tensor([0, 2])
    assert torch.equal(model.condition.masks, bank.masks)
    assert (model.generator.classes, model.generator.bands) == (bank.names, BANDS)
    assert model.condition.pixel_classes == bank.classes
    image = before(z, label)
    assert torch.equal(model.generator(z, label), image)
    assert torch.equal(model.critic.realism(image, label), critic.realism(image, label))
    assert model.header["attribution"] == "somebody"
    with pytest.raises(ModelError, match="draws tiles of given masks"):
        _ = model.class_generator
    with pytest.raises(ModelError, match="draws tiles of given masks"):
        load_generator(tmp_path / "gan.safetensors", CPU)


def test_overlaps_are_those_of_a_loop() -> None:
    """Intersection and union agree with counting pixel by pixel, unknown ones left out."""
    dice = torch.Generator().manual_seed(0)
    told = torch.randint(0, 3, (2, 6, 6), generator=dice)
    mask = torch.randint(0, 3, (2, 6, 6), generator=dice)
    told[told == 2], mask[0, :3] = UNKNOWN, UNKNOWN
    wanted = np.zeros((2, 2, 3))
    for tile in range(2):
        for a, b in zip(told[tile].flatten().tolist(), mask[tile].flatten().tolist(), strict=True):
            for k in range(3) if b != UNKNOWN else ():
                wanted[tile, 0, k] += a == k and b == k
                wanted[tile, 1, k] += k in (a, b)
    assert np.array_equal(overlaps(told, mask, 3).numpy(), wanted)


class Painter(torch.nn.Module):
    """Draws the colours of `FakeMasks`, wrong in every tile's last rows."""

    latent_dim = 1
    bands = BANDS

    def __init__(self, wrong: int) -> None:
        super().__init__()
        self.wrong = wrong
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        image = 0.1 + 0.2 * (mask == 1).float()
        if self.wrong:
            image[:, -self.wrong :] = 0.4 - image[:, -self.wrong :]
        return image[:, None].expand(-1, 4, -1, -1) + 0 * z[:, :1, None, None]


def test_fidelity_is_the_ratio_of_overlaps() -> None:
    """A generator as right as real tiles has 1, one that is wrong in a quarter of rows less."""
    real = FakeMasks(BANDS, 30)
    real.image = Painter(0)(torch.zeros(30, 1), real.masks)
    generator = start().average
    found = {}
    for wrong in (0, 8):
        painter = Painter(wrong)
        generator.forward = painter.forward  # type: ignore[method-assign]
        told = mask_fidelity(
            generator, real, FakeSegmenter(BANDS.select(["B08"])), seed=0, device=CPU
        )
        found[wrong] = {one.name: one for one in told}
    perfect = found[0]["mask fidelity of high"].measured
    assert perfect is not None
    assert (perfect.value, perfect.low, perfect.high, perfect.n) == (1, 1, 1, 30)
    mask = real.masks == 1
    known = real.masks != UNKNOWN
    answer = mask.clone()
    answer[:, -8:] = ~mask[:, -8:]
    both, either = (answer & mask & known).sum(), ((answer | mask) & known).sum()
    worse = found[8]["IoU of high"].measured
    ratio = found[8]["mask fidelity of high"].measured
    assert worse is not None
    assert ratio is not None
    assert worse.value == pytest.approx(float(both / either))
    assert ratio.low < ratio.value < ratio.high < 1


def test_fidelity_says_what_it_leaves_out() -> None:
    """A class that the segmenter lacks is named, and one that answers for tiles is refused."""
    real = FakeMasks(BANDS, 4)
    told = mask_fidelity(
        start().average, real, FakeSegmenter(BANDS, ("low", "other")), seed=0, device=CPU
    )
    assert [one.name for one in told if one.measured is None and "lacks" in one.note] == [
        "IoU of high"
    ]
    whole = FakeSegmenter(BANDS)
    whole.pixelwise = False
    with pytest.raises(ModelError, match="per pixel"):
        mask_fidelity(start().average, real, whole, seed=0, device=CPU)


def test_spectral_figures_of_masks_have_floors() -> None:
    """The spectral part of the quality table works on tiles without labels."""
    lines, _ = mask_spectral_figures(
        start().average, FakeMasks(BANDS, 10), FakeMasks(BANDS, 10, seed=9), 0
    )
    means = next(line for line in lines if line.name == "band means")
    assert means.measured is not None
    assert means.floor is not None
    assert means.measured.value > means.floor.value


def test_the_probe_of_masks_tells_what_looks_generated() -> None:
    """Tiles drawn by the law of the real ones pass for real, those of a fresh generator do not."""
    bands = BandSpec(names=("B02", "B03", "B04"), level="L2A")
    train, test = (FakeMasks(bands, 40, tile_size=16, seed=seed) for seed in (0, 9))
    still = (lambda image, mask, seed: (image, mask),) * 2
    generator = MaskGanTraining(
        SMALL, train, turn=still[0], augment=still[1], seed=1, device=CPU
    ).average

    def probed() -> PairedProbe:
        (found,) = probe_masks(generator, train, test, most=30, seed=3, device=CPU)
        return found

    told = probed()
    assert [line.name for line in told.measurements()] == [
        "probe, true colour, same masks: AUC",
        "probe, true colour, same masks: kept at 5 % false rejection",
    ]
    fresh, floor = told.generated, told.floor
    assert fresh is not None
    assert floor is not None
    assert (fresh.whole.real, fresh.whole.generated) == (30, 30)
    assert fresh.whole.auc_low > 0.95
    assert floor.whole.auc_low < 0.5 < floor.whole.auc_high

    def by_law(z: Tensor, mask: Tensor) -> Tensor:
        noise = torch.randn(len(z), 3, 16, 16, generator=torch.Generator().manual_seed(len(z)))
        return 0.1 + 0.2 * (mask == 1)[:, None] + 0.02 * noise

    generator.forward = by_law  # type: ignore[method-assign]
    same = probed().generated
    assert same is not None
    assert same.whole.auc_low < 0.5 < same.whole.auc_high


def test_sheets_show_masks_above_real_and_generated_tiles(tmp_path: Path) -> None:
    """Masks and real tiles are at known places, magnified; the most mixed tile comes first."""
    source = FakeMasks(BANDS, 4)
    written = write_sheets(tmp_path, start().average, source, columns=4, seed=0, images=12)
    assert [path.name for path in written] == [
        "true_colour_000000012.png",
        "near_infrared_000000012.png",
    ]
    sheet = np.asarray(Image.open(written[0]))
    share = (source.masks == 1).float().mean((1, 2))
    first = int((share - 0.5).abs().argmin())
    side = 2 * 32
    left = sheet.shape[1] - 4 * (side + 4)
    shown = sheet[46 : 46 + side : 2, left : left + side : 2]
    mask = source.masks[first].numpy()
    assert np.array_equal(shown, np.array(PALETTE)[mask % 7] * (mask != UNKNOWN)[:, :, None])
    below = sheet[46 + side + 2 : 46 + 2 * side + 2 : 2, left : left + side : 2]
    tile = source.image[first, list(BANDS.index_of(("B04", "B03", "B02")))]
    wanted = ((tile / 0.3).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.array_equal(below, wanted)


def test_the_command_trains_resumes_and_keeps_the_best(tmp_path: Path) -> None:
    """A stopped training goes on; metrics, sheets and a model that can be loaded are there."""
    own = SMALL.model_copy(update={"images": 32, "checkpoint_images": 16})
    settings = Settings(mask_gan=own, run=RunSettings(dir=tmp_path, device="cpu"))
    source, val = FakeMasks(BANDS, 12), FakeMasks(BANDS, 6, seed=9)
    finish(train_mask_gan(settings, source, val))
    longer = settings.model_copy(
        update={"mask_gan": own.model_copy(update={"images": 48, "sheet_columns": 2})}
    )
    finish(train_mask_gan(longer, source, val))
    assert len((tmp_path / "gan" / "metrics.jsonl").read_text().splitlines()) == 3
    assert len(list((tmp_path / "gan" / "sheets").iterdir())) == 6
    model = load_model(tmp_path / "gan" / "gan.safetensors", CPU)
    assert len(model.generator.classes) == 5


@pytest.mark.slow
def test_the_judge_of_masks_learns_and_comes_back(trained: MaskGanTraining, tmp_path: Path) -> None:
    """It tells real pixels from generated ones, loads as it was, and repeats by its seed."""
    source = FakeMasks(BANDS, 12, tile_size=16)
    own = GateSettings(width=8, images=480, batch_size=8, learning_rate=2e-3, ema_images=100)
    recipe = SMALL.model_copy(update={"gamma": 0.1})
    generator = MaskedGenerator(trained.average, bank_of(source)).generator

    def judges(seed: int) -> Iterator[BesideRecord[MaskDiscriminator]]:
        augment = mask_gan_augmentations(AugmentSettings())
        return train_mask_judge(
            generator, source, own, recipe, augment=augment, seed=seed, device=CPU
        )

    records = list(judges(3))
    losses = [record.loss for record in records]
    again, other = ([record.loss for record in islice(judges(seed), 5)] for seed in (3, 4))
    assert losses[:5] == again != other
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    bank = bank_of(source)
    critic = MaskCritic(records[-1].average, bank)
    save_critic(tmp_path / "critic.safetensors", critic)
    loaded = load_critic(tmp_path / "critic.safetensors", bank, CPU)
    label = torch.arange(len(bank))
    drawn = sample(generator, bank.at(label), 5)
    with torch.no_grad():
        real, fake = (critic.realism(image, label) for image in (source.image, drawn))
        assert torch.equal(loaded.realism(source.image, label), real)
        assert torch.equal(loaded.agreement(drawn, label), critic.agreement(drawn, label))
    assert float(real.mean()) > float(fake.mean())
    with pytest.raises(DataError, match="masks of a, b"):
        load_critic(
            tmp_path / "critic.safetensors",
            MaskBank(masks=bank.masks, names=bank.names, classes=("a", "b")),
            CPU,
        )


def test_agreement_is_a_part_of_the_gate_in_log_odds() -> None:
    """Full agreement stays finite, and the order of shares is kept."""
    shares = torch.tensor([0.0, 0.5, 0.9, 1.0])

    class Judge(FakeSource):
        def realism(self, image: Tensor, label: Tensor) -> Tensor:
            return label + image.mean((1, 2, 3))

        def agreement(self, image: Tensor, label: Tensor) -> Tensor:
            return shares[label] + 0 * image.mean((1, 2, 3))

        def features(self, image: Tensor) -> Tensor:
            return image.mean((2, 3))

    parts = critic_parts(Judge(BANDS, ("a",), 1))
    assert list(parts) == ["critic", "mask agreement"]
    told = parts["mask agreement"](torch.zeros(4, 4, 8, 8), torch.arange(4))
    expected = [-np.log(65), 0.0, np.log((57.6 + 1) / (6.4 + 1)), np.log(65)]
    torch.testing.assert_close(told, torch.tensor(expected, dtype=told.dtype))
