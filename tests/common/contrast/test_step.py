"""One iteration of every method, in one step and in two."""

import itertools
from copy import deepcopy

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.networks.nets import BasicUNet
from torch.testing import assert_close

from common.contrast import (
    METHODS,
    ContrastiveStep,
    GeneralizedDiceFocal,
    HeadedNetwork,
    LossBalance,
    PairLoss,
    PresenceTeaching,
    StepChange,
    byol_loss,
    decoder_presence_loss,
    gated_pseudo_labels,
    patch_contrast,
    positive_pairs,
    presence_loss,
    pretraining_epochs,
    simclr_loss,
    supervised_contrastive_loss,
)
from common.errors import ConfigError
from common.handlers import BestWeights

LAYERS = ["conv_0", "down_1", "down_2", "down_3", "down_4"]
CLASSES = 3
LOSS = GeneralizedDiceFocal()


def make_step(headed, **settings):
    """A step whose side tasks have a weight of 1."""
    return ContrastiveStep(
        headed, LOSS, **({"num_classes": CLASSES, "balance": LossBalance(alpha=1, beta=1)} | settings)
    )


def make_headed(method="both", seed=0, **settings):
    torch.manual_seed(seed)
    network = BasicUNet(spatial_dims=2, in_channels=3, out_channels=CLASSES, features=(4, 4, 4, 8, 8, 4), norm="batch")
    return HeadedNetwork(
        network, LAYERS, spatial_dims=2, in_channels=3, roi_size=[32, 32], num_classes=CLASSES, method=method,
        projection_size=8, **settings,
    )  # fmt: skip


def make_batch(seed=0, count=6, labeled=3, view=True):
    generator = torch.Generator().manual_seed(seed)
    presence = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]]).float()[:count]
    batch = {
        "image": torch.rand(count, 3, 32, 32, generator=generator),
        "label": torch.randint(0, CLASSES, (labeled, 1, 32, 32), generator=generator, dtype=torch.uint8),
        "presence": presence,
        "phase": torch.full((count,), -1),
    }
    return batch | ({"view": torch.rand(count, 3, 32, 32, generator=generator)} if view else {})


def make_trainer(headed, step, batches, epochs=1, handlers=()):
    optimizer = torch.optim.Adam(headed.parameters(), lr=0.01)
    return SupervisedTrainer(
        device=torch.device("cpu"), max_epochs=epochs, train_data_loader=batches, network=headed, optimizer=optimizer,
        loss_function=step.loss, iteration_update=step, decollate=False, train_handlers=list(handlers),
    )  # fmt: skip


class TestTerms:
    """The terms of the loss, computed once more by hand."""

    @pytest.mark.parametrize("scale_reduction", ["mean", "sum"])
    def test_both(self, scale_reduction):
        headed, batch = make_headed().train(), make_batch()
        weights = {"pairs": PairLoss(temperature=0.2), "balance": LossBalance(alpha=0.5, beta=2.0)}
        step = make_step(headed, scale_reduction=scale_reduction, **weights)
        terms = step.losses(headed, batch)
        found = headed(batch["image"], apart=3)
        assert_close(terms["segmentation"], LOSS(found["logits"][:3], batch["label"].long()))
        positive = positive_pairs(batch["presence"])
        each = [supervised_contrastive_loss(item, positive, temperature=0.2) for item in found["projections"]]
        assert_close(terms["contrastive"], 0.5 * sum(each) / (len(each) if scale_reduction == "mean" else 1))
        assert_close(terms["classification"], 2 * presence_loss(found["presence"][3:], batch["presence"][3:]))
        assert tuple(terms) == step.terms == ("segmentation", "contrastive", "classification")

    def test_phases_part_pairs(self):
        headed, batch = make_headed("contrastive").train(), make_batch()
        step = make_step(headed, method="contrastive")
        batch["phase"] = torch.arange(6)
        assert float(step.losses(headed, batch)["contrastive"].detach()) == 0.0

    def test_frames_with_masks_are_classified_when_asked(self):
        headed, batch = make_headed("classification").train(), make_batch()
        terms = make_step(headed, method="classification", classify_all=True).losses(headed, batch)
        found = headed(batch["image"], apart=3)
        assert_close(terms["classification"], presence_loss(found["presence"], batch["presence"]))
        assert set(terms) == {"segmentation", "classification"}

    def test_simclr_compares_every_image_with_its_view(self):
        headed, batch = make_headed("simclr").train(), make_batch()
        step = make_step(headed, method="simclr", pairs=PairLoss(temperature=0.3), scale_reduction="sum")
        terms = step.losses(headed, batch)
        found = headed(torch.cat([batch["image"], batch["view"]]), apart=3)
        each = [simclr_loss(item, temperature=torch.tensor(0.3)) for item in found["projections"]]
        assert_close(terms["contrastive"], sum(each))
        assert_close(terms["segmentation"], LOSS(found["logits"][:3], batch["label"].long()))

    def test_byol_compares_with_the_averaged_network(self):
        headed, batch = make_headed("byol").train(), make_batch()
        before = deepcopy(headed)
        step = make_step(headed, method="byol", pretrain_epochs=1, scale_reduction="sum")
        terms = step.losses(headed, batch, epoch=1)
        images = torch.cat([batch["image"], batch["view"]])
        found = deepcopy(before)(images)
        # The batch norms of the network have seen the images when the average copies them.
        targets = headed.eval()(images)["projections"]
        each = [byol_loss(*pair) for pair in zip(found["predictions"], targets, strict=True)]
        assert_close(terms["contrastive"], sum(each))
        assert float(terms["segmentation"]) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(method):
    headed = make_headed(method)
    before = deepcopy(headed.state_dict())
    step = make_step(headed, method=method, pretrain_epochs=1 if method == "byol" else 0)
    trainer = make_trainer(headed, step, [make_batch(seed) for seed in range(3)], epochs=2)
    trainer.run()
    output = trainer.state.output
    assert set(output) == {"loss", *step.terms}
    assert_close(output["loss"], sum(output[name] for name in step.terms))
    assert all(value.isfinite() for value in output.values())
    weights = [name for name, value in before.items() if name.endswith(".weight") and value.ndim > 1]
    assert all(not torch.equal(before[name], headed.state_dict()[name]) for name in weights)


def test_contrastive_term_falls():
    headed = make_headed("contrastive")
    step = make_step(headed, method="contrastive")
    batch, values = make_batch(), []
    trainer = make_trainer(headed, step, [batch] * 20, epochs=2)
    trainer.run()
    with torch.no_grad():
        values = [
            float(step.losses(item.train(), batch)["contrastive"]) for item in (make_headed("contrastive"), headed)
        ]
    assert values[1] < 0.7 * values[0]


def test_frames_with_masks_are_segmented_with_statistics_of_their_own():
    """What other frames of a batch look like changes nothing in the segmentation of those with masks."""
    batch = make_batch()
    other = batch | {"image": torch.cat([batch["image"][:3], 5 + batch["image"][3:]])}
    headed = make_headed().train()
    step = make_step(headed)
    first, second = (step.losses(headed, item)["segmentation"] for item in (batch, other))
    assert_close(first, second, rtol=0, atol=0)
    alone = make_headed("unet").train()
    alone.network.load_state_dict(make_headed().network.state_dict())
    assert_close(LOSS(alone.network(batch["image"][:3]), batch["label"].long()), first)


class TestPresence:
    """What frames without masks are known to show, in the losses of their segmentation."""

    def test_terms(self):
        headed, batch = make_headed("unet").train(), make_batch()
        teaching = PresenceTeaching(presence_weight=0.3, pseudo_weight=0.5, network=headed.network, ramp_share=0.5)
        step = make_step(headed, method="unet", teaching=teaching)
        before = deepcopy(headed)
        terms = step.losses(headed, batch, share=0.25)
        found = before(batch["image"], apart=3)
        rise = torch.tensor(-5 * 0.5**2).exp()
        assert_close(terms["segmentation"], LOSS(found["logits"][:3], batch["label"].long()))
        expected = decoder_presence_loss(found["logits"][3:], batch["presence"][3:])
        assert_close(terms["presence"], 0.3 * rise * expected)
        # The first average is the network, with the statistics that both halves have left.
        label = gated_pseudo_labels(before.network.eval()(batch["image"][3:]), batch["presence"][3:])
        expected = torch.nn.functional.cross_entropy(found["logits"][3:], label)
        assert_close(terms["pseudo"], 0.5 * rise * expected)
        assert tuple(terms) == step.terms == ("segmentation", "presence", "pseudo")

    def test_presence_reaches_the_decoder(self):
        headed = make_headed("unet").train()
        step = make_step(headed, method="unet", teaching=PresenceTeaching(presence_weight=1.0))
        step.losses(headed, make_batch(), share=1.0)["presence"].backward()
        assert float(headed.network.upcat_1.convs.conv_0.conv.weight.grad.abs().sum()) > 0

    def test_second_step_learns_from_classes_too(self):
        headed = make_headed().train()
        step = make_step(headed, pretrain_epochs=1, teaching=PresenceTeaching(presence_weight=1.0))
        first, second = (step.losses(headed, make_batch(), epoch=epoch, share=0.5) for epoch in (1, 2))
        assert tuple(first) == tuple(second) == step.terms
        assert float(first["presence"].detach()) == 0.0 < float(second["presence"].detach())

    def test_weights_rise_in_the_course_of_the_second_step(self):
        headed, shares = make_headed(), []
        teaching = PresenceTeaching(presence_weight=1.0)
        losses = teaching.losses
        teaching.losses = lambda *given, share: shares.append(share) or losses(*given, share=share)
        step = make_step(headed, pretrain_epochs=1, teaching=teaching)
        make_trainer(headed, step, [make_batch()] * 2, epochs=3).run()
        assert shares == [0.25, 0.5, 0.75, 1.0]

    def test_teacher_survives_a_checkpoint(self):
        steps = []
        for seed in (0, 1):
            headed = make_headed("unet", seed)
            teaching = PresenceTeaching(pseudo_weight=1.0, network=headed.network)
            steps.append(make_step(headed, method="unet", teaching=teaching))
        make_trainer(make_headed("unet"), steps[0], [make_batch()] * 2).run()
        steps[1].load_state_dict(deepcopy(steps[0].state_dict()))
        assert_close(steps[1].moved_average.state_dict(), steps[0].moved_average.state_dict(), rtol=0, atol=0)


def test_patches_are_compared_by_the_class_of_their_masks():
    headed, batch = make_headed("contrastive", patch_grid=4).train(), make_batch()
    terms = make_step(headed, method="contrastive", scale_reduction="sum").losses(headed, batch)
    found = headed(batch["image"], apart=3)["projections"]
    each = [patch_contrast(item[:3], batch["label"], CLASSES) for item in found]
    assert [item.shape[2:] for item in found] == [(4, 4)] * 4 + [(2, 2)]
    assert_close(terms["contrastive"], sum(each))


class TestTwoSteps:
    def test_fine_tuning_trains_everything(self):
        headed = make_headed()
        step = make_step(headed, pretrain_epochs=1, fine_tune=True)
        trainer = make_trainer(headed, step, [make_batch()], epochs=2)
        before = {}
        trainer.add_event_handler(
            Events.EPOCH_STARTED(once=2), lambda _engine: before.update(deepcopy(headed.network.state_dict()))
        )
        trainer.run()
        weights = [name for name, value in before.items() if name.endswith(".weight") and value.ndim > 1]
        assert all(not torch.equal(before[name], headed.network.state_dict()[name]) for name in weights)

    def test_first_step_trains_the_encoder_alone_and_the_second_the_decoder_alone(self):
        headed = make_headed()
        step = make_step(headed, pretrain_epochs=2)
        states = [deepcopy(headed.state_dict())]
        trainer = make_trainer(headed, step, [make_batch()], epochs=4)
        outputs = []

        def keep(engine):
            states.append(deepcopy(headed.state_dict()))
            outputs.append(dict(engine.state.output))

        trainer.add_event_handler(Events.EPOCH_COMPLETED, keep)
        trainer.run()
        changed = [
            {
                name
                for name in old
                if not torch.equal(old[name], new[name]) and "running" not in name and "num_b" not in name
            }
            for old, new in itertools.pairwise(states)
        ]
        for names in changed[:2]:
            assert {name.split(".")[1] for name in names if name.startswith("network.")} == set(LAYERS)
            assert {name.split(".")[0] for name in names} == {"network", "heads", "classifier"}
        for names in changed[2:]:
            parts = {name.split(".")[1] for name in names}
            assert all(name.startswith("network.") for name in names)
            assert parts == {"upcat_1", "upcat_2", "upcat_3", "upcat_4", "final_conv"}
        assert [float(item["segmentation"]) > 0 for item in outputs] == [False, False, True, True]
        assert [float(item["contrastive"]) > 0 for item in outputs] == [True, True, False, False]
        encoder = [name for name in states[2] if name.split(".")[1] in LAYERS and name.startswith("network.")]
        assert all(torch.equal(states[2][name], states[4][name]) for name in encoder), "statistics included"

    def test_best_weights_are_forgotten_between_the_steps(self, tmp_path):
        headed = make_headed()
        best = BestWeights(headed.network, tmp_path)
        best.best, best.digest = 0.9, "of an untrained decoder"
        step = make_step(headed, pretrain_epochs=1)
        trainer = make_trainer(headed, step, [make_batch()], 1, [StepChange(best, 1)])
        trainer.run()
        assert best.best == 0.9
        make_trainer(headed, step, [make_batch()], 2, [StepChange(best, 1)]).run()
        assert (best.best, best.digest) == (0.0, "")

    def test_length_of_the_first_step(self):
        assert pretraining_epochs("both", two_step=False, max_epochs=10) == 0
        assert pretraining_epochs("both", two_step=True, max_epochs=10) == 5
        assert pretraining_epochs("contrastive", two_step=True, max_epochs=10, pretrain_epochs=8) == 8
        assert pretraining_epochs("byol", two_step=False, max_epochs=7) == 3

    @pytest.mark.parametrize("epochs", [0, 10, 12])
    def test_lengths_that_leave_a_step_without_an_epoch(self, epochs):
        with pytest.raises(ConfigError, match=f"pretrain_epochs is {epochs} of max_epochs 10; accepted is 1 to"):
            pretraining_epochs("both", two_step=True, max_epochs=10, pretrain_epochs=epochs)

    def test_length_of_a_step_that_there_is_not(self):
        with pytest.raises(ConfigError, match="pretrain_epochs is 2, but method 'both' has one step: set two_step"):
            pretraining_epochs("both", two_step=False, max_epochs=10, pretrain_epochs=2)
        with pytest.raises(ConfigError, match="fine_tune is set, but goes with two steps alone"):
            make_step(make_headed(), fine_tune=True)

    def test_unet_alone_has_nothing_to_train_an_encoder_with(self):
        with pytest.raises(
            ConfigError, match="two_step is set, but method 'unet' has nothing to train an encoder with"
        ):
            pretraining_epochs("unet", two_step=True, max_epochs=10)


def test_averaged_network_survives_a_checkpoint():
    steps = [make_step(make_headed("byol", seed), method="byol", pretrain_epochs=2) for seed in (0, 1)]
    headed = make_headed("byol")
    make_trainer(headed, steps[0], [make_batch()] * 3).run()
    steps[1].load_state_dict(deepcopy(steps[0].state_dict()))
    assert_close(steps[1].ema.state_dict(), steps[0].ema.state_dict(), rtol=0, atol=0)
    plain = make_step(make_headed())
    plain.load_state_dict(plain.state_dict())
    assert plain.state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"method": "moco"}, "method is 'moco'; accepted are unet, simclr, byol, classification, contrastive, both"),
        ({"scale_reduction": "max"}, "scale_reduction is 'max'; accepted are mean and sum"),
    ],
)
def test_settings_that_are_not_accepted(settings, text):
    with pytest.raises(ConfigError, match=text):
        make_step(make_headed(), **settings)


@pytest.mark.parametrize("settings", [{"method": "classification"}, {"method": "both", "pretrain_epochs": 1}])
def test_patches_need_masks(settings):
    headed = make_headed(settings["method"], patch_grid=4)
    with pytest.raises(ConfigError, match="patch_grid is 4, but masks alone name the classes of patches"):
        make_step(headed, **settings)


@pytest.mark.parametrize("settings", [{"positives": "overlap"}, {"queue_size": 8}])
def test_patches_are_compared_by_their_one_class_within_the_batch(settings):
    headed = make_headed("contrastive", patch_grid=4)
    make_step(headed, method="contrastive", pairs=PairLoss(temperature=0.5))
    with pytest.raises(ConfigError, match="patch_grid is 4, but patches have one class each"):
        make_step(headed, method="contrastive", pairs=PairLoss(**settings))


@pytest.mark.parametrize("method", METHODS)
def test_step_asks_no_tensor_of_the_device_for_its_value(waiting_for_device, method):
    """Only the count of averaged steps, which stays on the host, is read."""
    headed = make_headed(method)
    teaching = PresenceTeaching(presence_weight=0.3, pseudo_weight=0.3, network=headed.network)
    balance = LossBalance(term_balance="gradient", norm_interval=1)
    pairs = PairLoss(positives="overlap", queue_size=8)
    settings = {"teaching": teaching, "balance": balance, "pairs": pairs, "pretrain_epochs": 1}
    step = make_step(headed, method=method, **settings)
    optimizer = torch.optim.Adam(headed.parameters(), fused=True)
    batch = make_batch()
    with waiting_for_device() as waiting:
        for epoch in (1, 2, 3):
            terms = step.losses(headed.train(), batch, epoch=epoch if method != "unet" else 3)
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
    own = [ema.n_averaged for ema in (step.ema, step.moved_average) if ema]
    assert all(any(item is count for count in own) for _, item in waiting.found), waiting.found
